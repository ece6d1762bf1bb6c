"""How an answer is worded: real texts say the same thing in many ways, and so do these.

A model that has read them all is unsure of the wording long before it is unsure of the result, which is what makes a
diffusion model commit too little at once, and what redundancy-aware fine-tuning can cure.
"""

import random

WEIGHTS = (0.4, 0.3, 0.3)
FAITHFUL = 0.8


class Voice:
    """One writer: terse, plain or wordy by habit, and true to it in four sentences of five."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._habit = rng.choices(range(3), WEIGHTS)[0]

    def say(self, terse: str, plain: str, wordy: str) -> str:
        """One of the three wordings."""
        options = (terse, plain, wordy)
        return options[self._habit] if self._rng.random() < FAITHFUL else self._rng.choice(options)
