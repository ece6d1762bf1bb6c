"""Chained sums: an expression of two to five operands, reduced from the left."""

import random

from unmask.tasks import sums
from unmask.tasks.problem import Problem
from unmask.tasks.voice import Voice, text


def sample(rng: random.Random) -> Problem:
    """Draw one problem, of either split.

    >>> problem = sample(random.Random(0))
    >>> problem.question
    'Compute 59 + 8 - 8 - 6 - 7.'
    >>> problem.key
    '46'
    """
    start = total = rng.randint(10, 99)
    steps = [sums.step(rng, total)]
    for _ in range(rng.randrange(4)):
        steps.append(sums.step(rng, steps[-1][2]))
    voice = Voice(rng)
    worked = []
    for number, (sign, digit, after) in enumerate(steps):
        rest = "".join(f" {later} {operand}" for later, operand, _ in steps[number + 1 :])
        worked.append(
            voice.say(
                f"{total} {sign} {digit} = {after}.",
                f"{total} {sign} {digit} = {after}, which leaves {after}{rest}.",
                f"From the left we take {total} {sign} {digit} and get {after}, so what is left is {after}{rest}.",
            )
        )
        total = after
    expression = f"{start}" + "".join(f" {sign} {digit}" for sign, digit, _ in steps)
    worked.append(voice.say("", f"So {expression} = {total}.", f"All in all {expression} = {total}."))
    return Problem(
        task="chain",
        question=f"Compute {expression}.",
        worked=text(*worked, f"The answer is {total}."),
        key=str(total),
        steps=len(steps),
    )
