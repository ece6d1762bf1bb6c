"""Bare sums, several at once: the drill that teaches the embedded model its tables.

    Compute 23 + 8, 45 - 6.
    23 + 8 = 31, 45 - 6 = 39.

The same numbers as in the word problems (tasks/arithmetic.py): two digits and one digit, results within 10..99.
"""

import random

from unmask.tasks.problem import Problem


def words() -> set[str]:
    """Every word of the task."""
    return {"Compute", "+", "-", "="}


def step(rng: random.Random, total: int) -> tuple[str, int, int]:
    """A sign, a digit (2 to 9) and the new total, which stays within 10..99; both signs are as likely where both fit.

    >>> step(random.Random(1), 12)
    ('+', 4, 16)
    """
    digit = rng.randint(2, 9)
    can_gain, can_lose = total + digit <= 99, total - digit >= 10
    gain = can_gain and (not can_lose or rng.random() < 0.5)
    return ("+", digit, total + digit) if gain else ("-", digit, total - digit)


def sample(rng: random.Random, count: int) -> Problem:
    """Draw `count` unrelated sums, of either split."""
    asked, worked = [], []
    result = 0
    for _ in range(count):
        total = rng.randint(10, 99)
        sign, digit, result = step(rng, total)
        asked.append(f"{total} {sign} {digit}")
        worked.append(f"{total} {sign} {digit} = {result}")
    return Problem(question=f"Compute {', '.join(asked)}.", worked=f"{', '.join(worked)}.", key=result, steps=count)


def verify(text: str, problem: Problem) -> bool:
    """Whether every sum is there and right."""
    return text.strip() == problem.worked
