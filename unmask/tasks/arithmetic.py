"""Word problems with a running sum, solved a sentence a step.

A pure generator: it knows random numbers and English sentences, no model and no tokenizer. Every step adds or takes a
digit (2 to 9) and totals stay within 10..99, which a model of a million parameters can learn on a laptop; the days tell
it which sentence to read next.

    Mia has 23 apples. On Monday Mia buys 8. On Tuesday Mia gives away 5. How many apples does Mia have?
    Mia starts with 23 apples. On Monday Mia buys 8, so 23 + 8 = 31. On Tuesday Mia gives away 5, so 31 - 5 = 26. The
    answer is 26.

Training and held-out problems are disjoint by construction: a hash of the question decides which side it is on.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]

NAMES = ("Ana", "Ben", "Eva", "Leo", "Lily", "Max", "Mia", "Noah", "Sam", "Tom", "Will", "Zoe")
ITEMS = ("apples", "books", "cards", "coins", "cups", "eggs", "hats", "keys", "pens", "shells", "stamps", "toys")
GAINS = ("buys", "finds", "gets")
LOSSES = ("gives away", "loses", "sells")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MAX_STEPS = len(DAYS)
HELD_OUT = 0.05

_ANSWER = re.compile(r"The answer is (-?\d+)\.")


def words() -> set[str]:
    """Every word of the task, for a tokenizer in which each is one token."""
    sentences = "has starts with On so The answer is How many does have + - ="
    return {*NAMES, *ITEMS, *DAYS, *" ".join((*GAINS, *LOSSES, sentences)).split()}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One question, its worked answer, the number that the answer must end in, and how many steps it takes."""

    question: str
    worked: str
    key: int
    steps: int

    @property
    def split(self) -> Split:
        """Which side of the wall the question is on; the same on every machine and in every version of Python."""
        digest = hashlib.sha256(self.question.encode()).digest()
        return "test" if int.from_bytes(digest[:8], "big") < HELD_OUT * 2**64 else "train"


def sample(rng: random.Random, steps: int) -> Problem:
    """Draw one problem of `steps` steps, of either split.

    >>> sample(random.Random(0), 1).question
    'Tom has 53 shells. Tom finds 5 shells. How many shells does Tom have?'
    """
    name, items = rng.choice(NAMES), rng.choice(ITEMS)
    total = rng.randint(10, 99)
    told = [f"{name} has {total} {items}."]
    worked = [f"{name} starts with {total} {items}."]
    for day in DAYS[:steps]:
        digit = rng.randint(2, 9)
        can_gain, can_lose = total + digit <= 99, total - digit >= 10
        gain = can_gain and (not can_lose or rng.random() < 0.5)
        verb, sign = (rng.choice(GAINS), "+") if gain else (rng.choice(LOSSES), "-")
        after = total + digit if gain else total - digit
        told.append(f"On {day} {name} {verb} {digit}.")
        worked.append(f"On {day} {name} {verb} {digit}, so {total} {sign} {digit} = {after}.")
        total = after
    told.append(f"How many {items} does {name} have?")
    worked.append(f"The answer is {total}.")
    return Problem(question=" ".join(told), worked=" ".join(worked), key=total, steps=steps)


def problems(split: Split, seed: int, steps: tuple[int, ...] = tuple(range(1, MAX_STEPS + 1))) -> Iterator[Problem]:
    """An endless stream of problems of one split, their number of steps drawn evenly from `steps`."""
    rng = random.Random(f"{split}-{seed}")
    while True:
        problem = sample(rng, rng.choice(steps))
        if problem.split == split:
            yield problem


def verify(text: str, key: int) -> bool:
    """Whether the last stated answer in `text` is `key`.

    >>> verify("Mia starts with 3 apples. The answer is 3.", 3), verify("The answer is 12.", 2), verify("12", 12)
    (True, False, False)
    """
    stated = _ANSWER.findall(text)
    return bool(stated) and int(stated[-1]) == key
