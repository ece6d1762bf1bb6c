"""Sums with a digit: the steps of the word problems, and sheets of sums to drill."""

import random
from collections.abc import Iterable


def words() -> set[str]:
    """Every word of a sheet."""
    return {"so", "+", "-", "="}


def step(rng: random.Random, total: int) -> tuple[str, int, int]:
    """A sign, a digit (2 to 9) and the new total, which stays within 10..99; both signs are equally likely if both fit.

    >>> step(random.Random(1), 12)
    ('+', 4, 16)
    """
    digit = rng.randint(2, 9)
    can_gain, can_lose = total + digit <= 99, total - digit >= 10
    gain = can_gain and (not can_lose or rng.random() < 0.5)
    return ("+", digit, total + digit) if gain else ("-", digit, total - digit)


def run(rng: random.Random, total: int, most: int) -> list[tuple[str, int, int]]:
    """One to `most` steps, each starting from the total of the step before.

    >>> run(random.Random(1), 12, 1)
    [('+', 4, 16)]
    """
    steps = [step(rng, total)]
    for _ in range(rng.randrange(most)):
        steps.append(step(rng, steps[-1][2]))
    return steps


def written(start: str, steps: Iterable[tuple[str, int, int]]) -> str:
    """The expression of some steps.

    >>> written("x", [("+", 4, 16), ("-", 2, 14)])
    'x + 4 - 2'
    """
    return start + "".join(f" {sign} {digit}" for sign, digit, _ in steps)


def sheet(rng: random.Random, count: int) -> str:
    """`count` unrelated sums, solved, as a text.

    >>> sheet(random.Random(3), 2)
    'so 40 + 4 = 44. so 87 - 9 = 78.'
    """
    lines = []
    for _ in range(count):
        total = rng.randint(10, 99)
        sign, digit, result = step(rng, total)
        lines.append(f"so {total} {sign} {digit} = {result}.")
    return " ".join(lines)
