"""Sorting: names into the order of the alphabet."""

import itertools
import random

from unmask.tasks.problem import Problem, solved
from unmask.tasks.voice import Voice, Wording
from unmask.tasks.words import NAMES


def sample(rng: random.Random, wording: Wording | None = None) -> Problem:
    """Draw one problem of three to six names, of either split.

    >>> problem = sample(random.Random(0))
    >>> problem.question
    'Sort the names Sam, Ana, Eva, Leo, Iris, Hugo.'
    >>> problem.key
    'Ana, Eva, Hugo, Iris, Leo, Sam'
    """
    names = rng.sample(NAMES, rng.randint(3, 6))
    order = sorted(names)
    voice = Voice(rng, wording)
    worked = [voice.say("", f"{order[0]} comes first.", f"The first of all {len(order)} names is {order[0]}.")]
    for before, name in itertools.pairwise(order):
        worked.append(voice.say("", f"After {before} comes {name}.", f"Of those that are left {name} is next after {before}."))
    return solved(
        task="sorting",
        question=f"Sort the names {', '.join(names)}.",
        worked=worked,
        key=", ".join(order),
        steps=len(names),
    )
