"""Simple equations: x and one to three digits on the left, a number on the right; solved from the last operation backwards."""

import random

from unmask.tasks import sums
from unmask.tasks.problem import Problem, solved
from unmask.tasks.voice import Voice, Wording

_UNDO = {"+": ("-", "Subtract", "from"), "-": ("+", "Add", "to")}


def sample(rng: random.Random, wording: Wording | None = None) -> Problem:
    """Draw one problem, of either split.

    >>> problem = sample(random.Random(0))
    >>> problem.question
    'Solve x + 8 + 9 - 6 = 70.'
    >>> problem.key
    '59'
    """
    x = rng.randint(10, 99)
    steps = sums.run(rng, x, most=3)
    voice = Voice(rng, wording)
    totals = [x, *(after for *_, after in steps)]
    left = [sums.written("x", steps[:count]) for count in range(len(steps) + 1)]
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
    check = sums.written(str(x), steps)
    worked.append(voice.say("", f"So x = {x}.", f"We check that {check} = {totals[-1]}."))
    return solved(
        task="equations",
        question=f"Solve {left[-1]} = {totals[-1]}.",
        worked=worked,
        key=str(x),
        steps=len(steps),
    )
