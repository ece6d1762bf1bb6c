"""One generated problem, and which side of the train/test wall it is on."""

import hashlib
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]
HELD_OUT = 0.05


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One question, its worked answer, the number that the answer must end in, and how many steps it takes."""

    question: str
    worked: str
    key: int
    steps: int

    @property
    def split(self) -> Split:
        """Decided by a hash of the question: the same on every machine and in every version of Python."""
        digest = hashlib.sha256(self.question.encode()).digest()
        return "test" if int.from_bytes(digest[:8], "big") < HELD_OUT * 2**64 else "train"
