"""Word problems with a running sum, solved with one sentence per step.

    Mia has 23 apples. On Monday Mia buys 8. On Tuesday Mia gives away 5. How many apples does Mia have?
    Mia starts with 23 apples. On Monday Mia buys 8, so 23 + 8 = 31. On Tuesday 31 - 5 = 26. The answer is 26.

Every step adds or subtracts a digit (2 to 9) and totals stay within 10..99, which a model of two million parameters can
learn on a laptop; the weekdays show which sentence comes next.
"""

import random

from unmask.tasks import sums
from unmask.tasks.problem import Problem, solved
from unmask.tasks.voice import Voice, Wording
from unmask.tasks.words import ITEMS, NAMES

GAINS = ("buys", "finds", "gets", "wins")
LOSSES = ("gives away", "loses", "sells", "drops")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")


def sample(rng: random.Random, wording: Wording | None = None) -> Problem:
    """Draw one problem of one to five steps, of either split.

    >>> problem = sample(random.Random(0))
    >>> problem.question
    'Noah has 43 hats. On Monday Noah sells 6. How many hats does Noah have?'
    >>> problem.key
    '37'
    """
    name, items = rng.choice(NAMES), rng.choice(ITEMS)
    steps = rng.randint(1, len(DAYS))
    start = total = rng.randint(10, 99)
    voice = Voice(rng, wording)
    sentences = [f"{name} has {total} {items}."]
    worked = [
        voice.say("", f"{name} starts with {total} {items}.", f"At first {name} has {total} {items}, so the count is {start}.")
    ]
    for day in DAYS[:steps]:
        sign, digit, after = sums.step(rng, total)
        verb = rng.choice(GAINS if sign == "+" else LOSSES)
        sentences.append(f"On {day} {name} {verb} {digit}.")
        worked.append(
            voice.say(
                f"On {day} {total} {sign} {digit} = {after}.",
                f"On {day} {name} {verb} {digit}, so {total} {sign} {digit} = {after}.",
                f"Then on {day} {name} {verb} {digit} {items}, which makes {total} {sign} {digit} = {after} {items}.",
            )
        )
        total = after
    sentences.append(f"How many {items} does {name} have?")
    worked.append(voice.say("", f"So {name} has {total} {items}.", f"In the end {name} has {total} {items} left."))
    return solved(
        task="arithmetic",
        question=" ".join(sentences),
        worked=worked,
        key=str(total),
        steps=steps,
    )
