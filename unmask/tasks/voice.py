"""The wording of an answer: like real texts, worked answers say the same thing in several ways.

A model trained on all wordings is less certain of the wording than of the result. That makes a diffusion model commit few
tokens per forward, which redundancy-aware fine-tuning can improve.
"""

import random
from typing import Literal

Wording = Literal["terse", "plain", "wordy"]
WORDINGS: tuple[Wording, ...] = ("terse", "plain", "wordy")
WEIGHTS = (0.4, 0.3, 0.3)
FAITHFUL = 0.8


class Voice:
    """One style per answer: terse, plain or wordy, kept in four of five sentences or more; in all of them if it is named."""

    def __init__(self, rng: random.Random, wording: Wording | None = None) -> None:
        self._rng = rng
        self._habit = rng.choices(range(3), WEIGHTS)[0] if wording is None else WORDINGS.index(wording)
        self._faithful = FAITHFUL if wording is None else 1.0

    def say(self, terse: str, plain: str, wordy: str) -> str:
        """One of the three wordings."""
        options = (terse, plain, wordy)
        return options[self._habit] if self._rng.random() < self._faithful else self._rng.choice(options)
