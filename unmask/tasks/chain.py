"""Chained sums: an expression of two to five operands, reduced from the left."""

import random

from unmask.tasks import sums
from unmask.tasks.problem import Problem, solved
from unmask.tasks.voice import Voice, Wording


def sample(rng: random.Random, wording: Wording | None = None) -> Problem:
    """Draw one problem, of either split.

    >>> problem = sample(random.Random(0))
    >>> problem.question
    'Compute 59 + 8 - 8 - 6 - 7.'
    >>> problem.key
    '46'
    """
    start = total = rng.randint(10, 99)
    steps = sums.run(rng, total, most=4)
    voice = Voice(rng, wording)
    worked = []
    for number, (sign, digit, after) in enumerate(steps):
        left = sums.written(str(after), steps[number + 1 :])
        worked.append(
            voice.say(
                f"{total} {sign} {digit} = {after}.",
                f"{total} {sign} {digit} = {after}, which leaves {left}.",
                f"From the left we take {total} {sign} {digit} and get {after}, so what is left is {left}.",
            )
        )
        total = after
    expression = sums.written(str(start), steps)
    worked.append(voice.say("", f"So {expression} = {total}.", f"All in all {expression} = {total}."))
    return solved(
        task="chain",
        question=f"Compute {expression}.",
        worked=worked,
        key=str(total),
        steps=len(steps),
    )
