"""Simple equations: x and one to three digits on the left, a number on the right; the last operation is undone first."""

import random

from unmask.tasks import sums
from unmask.tasks.problem import Problem
from unmask.tasks.voice import Voice, text

_UNDO = {"+": ("-", "Subtract", "from"), "-": ("+", "Add", "to")}


def sample(rng: random.Random) -> Problem:
    """Draw one problem, of either split.

    >>> problem = sample(random.Random(0))
    >>> problem.question
    'Solve x + 8 + 9 - 6 = 70.'
    >>> problem.key
    '59'
    """
    x = rng.randint(10, 99)
    steps = [sums.step(rng, x)]
    for _ in range(rng.randrange(3)):
        steps.append(sums.step(rng, steps[-1][2]))
    voice = Voice(rng)
    totals = [x, *(after for *_, after in steps)]
    left = ["x" + "".join(f" {sign} {digit}" for sign, digit, _ in steps[:count]) for count in range(len(steps) + 1)]
    worked = []
    for number in reversed(range(len(steps))):
        sign, digit, after = steps[number]
        opposite, verb, preposition = _UNDO[sign]
        result = f"{left[number]} = {after} {opposite} {digit} = {totals[number]}."
        worked.append(
            voice.say(
                result,
                f"{verb} {digit} {preposition} both sides, so {result}",
                f"To get rid of {sign} {digit} we {verb.lower()} {digit} {preposition} both sides, and that gives {result}",
            )
        )
    check = " ".join([f"{x}", *(f"{sign} {digit}" for sign, digit, _ in steps)])
    worked.append(voice.say("", f"So x = {x}.", f"We check that {check} = {totals[-1]}."))
    return Problem(
        task="equations",
        question=f"Solve {left[-1]} = {totals[-1]}.",
        worked=text(*worked, f"The answer is {x}."),
        key=str(x),
        steps=len(steps),
    )
