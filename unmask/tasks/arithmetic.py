"""Word problems with a running sum, solved a sentence a step.

A pure generator: it knows random numbers and English sentences, no model and no tokenizer. Every step adds or takes a
digit (2 to 9) and totals stay within 10..99, which a model of a million parameters can learn on a laptop; the days tell
it which sentence to read next.

    Mia has 23 apples. On Monday Mia buys 8. On Tuesday Mia gives away 5. How many apples does Mia have?
    Mia starts with 23 apples. On Monday Mia buys 8, so 23 + 8 = 31. On Tuesday Mia gives away 5, so 31 - 5 = 26. The
    answer is 26.

Training and held-out problems are disjoint by construction: a hash of the question decides which side it is on.
"""

import random
import re
from collections.abc import Iterator

from unmask.tasks import sums
from unmask.tasks.problem import Problem, Split

NAMES = ("Ana", "Ben", "Eva", "Leo", "Lily", "Max", "Mia", "Noah", "Sam", "Tom", "Will", "Zoe")
ITEMS = ("apples", "books", "cards", "coins", "cups", "eggs", "hats", "keys", "pens", "shells", "stamps", "toys")
GAINS = ("buys", "finds", "gets")
LOSSES = ("gives away", "loses", "sells")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MAX_STEPS = 4  # the task that the embedded model has learnt; its training goes on to six, which it has not (docs/LOG.md)

_ANSWER = re.compile(r"The answer is (-?\d+)\.")


def words() -> set[str]:
    """Every word of the task, for a tokenizer in which each is one token."""
    sentences = "has starts with On so The answer is How many does have + - ="
    return {*NAMES, *ITEMS, *DAYS, *" ".join((*GAINS, *LOSSES, sentences)).split()}


def sample(rng: random.Random, steps: int) -> Problem:
    """Draw one problem of `steps` steps, of either split.

    >>> sample(random.Random(0), 1).question
    'Mia has 15 hats. On Monday Mia gets 6. How many hats does Mia have?'
    """
    name, items = rng.choice(NAMES), rng.choice(ITEMS)
    total = rng.randint(10, 99)
    told = [f"{name} has {total} {items}."]
    worked = [f"{name} starts with {total} {items}."]
    for day in DAYS[:steps]:
        sign, digit, after = sums.step(rng, total)
        verb = rng.choice(GAINS if sign == "+" else LOSSES)
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
