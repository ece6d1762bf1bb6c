"""Generated problems with worked answers and an exact verifier, on which the embedded model is trained and measured.

Pure generators of sentences from random numbers, independent of models and tokenizers. Training and held-out problems are
disjoint by construction: a hash of the question decides its split.
"""

import functools
import random
from collections.abc import Callable, Iterator, Mapping

from unmask.errors import unknown
from unmask.tasks import arithmetic, chain, counting, editing, equations, expressions, gsm_symbolic, lists, sorting
from unmask.tasks.problem import Problem, Split

TASKS: Mapping[str, Callable[[random.Random], Problem]] = {
    "arithmetic": arithmetic.sample,
    "chain": chain.sample,
    "equations": equations.sample,
    "counting": counting.sample,
    "sorting": sorting.sample,
    "expressions": expressions.sample,
    "editing": editing.sample,
}
# ParallelBench's operations on lists, together and each alone. No part of "mixture": the embedded models were not trained on
# them, and the streams of what they were trained on stay as they are.
LISTS: Mapping[str, Callable[[random.Random], Problem]] = {
    "waiting_line": lists.sample,
    **{f"waiting_line_{kind}": functools.partial(lists.sample_of, kind) for kind in lists.KINDS},
}
# Tasks from an optional library.
LIBRARY: Mapping[str, Callable[[random.Random], Problem]] = {"gsm_symbolic": gsm_symbolic.sample}
EVERY: Mapping[str, Callable[[random.Random], Problem]] = {**TASKS, **LISTS, **LIBRARY}


def problems(weights: Mapping[str, float] | str, split: Split, seed: int) -> Iterator[Problem]:
    """An endless stream of problems of one split: of one task by name, or of a mixture by weights.

    Raises ConfigError for an unknown task. Questions repeat, sooner if a task has few of them.

    >>> next(problems("chain", "test", seed=0)).question
    'Compute 78 - 7 + 2 + 2 + 9.'
    """
    weights = {weights: 1.0} if isinstance(weights, str) else weights
    for name in weights:
        if name not in EVERY:
            raise unknown("task", name, EVERY)
    return _draw(weights, split, random.Random(f"{split}-{seed}"))


def _draw(weights: Mapping[str, float], split: Split, rng: random.Random) -> Iterator[Problem]:
    names, shares = list(weights), list(weights.values())
    while True:
        problem = EVERY[rng.choices(names, shares)[0]](rng)
        if problem.split == split:
            yield problem
