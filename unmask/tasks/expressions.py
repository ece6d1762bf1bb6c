"""Short Python expressions: the maximum or minimum of two numbers, then up to two additions or subtractions."""

import random

from unmask.tasks import sums
from unmask.tasks.problem import Problem, solved
from unmask.tasks.voice import Voice, Wording

_CHOOSE = {"max": (max, "larger"), "min": (min, "smaller")}


def sample(rng: random.Random, wording: Wording | None = None) -> Problem:
    """Draw one problem, of either split.

    >>> problem = sample(random.Random(0))
    >>> problem.question
    'What does Python print for min(63, 15) + 6?'
    >>> problem.key
    '21'
    """
    name = rng.choice(("max", "min"))
    function, word = _CHOOSE[name]
    first, second = rng.sample(range(10, 100), 2)
    total = function(first, second)
    call = f"{name}({first}, {second})"
    voice = Voice(rng, wording)
    worked = [
        voice.say(
            f"{call} = {total}.",
            f"The {word} number is {total}, so {call} = {total}.",
            f"We compare {first} and {second}. The {word} of the two numbers is {total}, so {call} = {total}.",
        )
    ]
    expression = call
    steps = rng.randrange(3)
    for _ in range(steps):
        sign, digit, after = sums.step(rng, total)
        expression += f" {sign} {digit}"
        worked.append(
            voice.say(
                f"{total} {sign} {digit} = {after}.",
                f"Then {total} {sign} {digit} = {after}.",
                f"Python goes on with {total} {sign} {digit}, which gives {after}.",
            )
        )
        total = after
    return solved(
        task="expressions",
        question=f"What does Python print for {expression}?",
        worked=worked,
        key=str(total),
        steps=steps + 1,
    )
