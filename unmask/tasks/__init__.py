"""Generated problems with worked answers and an exact verifier, on which the embedded model is trained and measured.

Pure generators of sentences from random numbers, independent of models and tokenizers. Training and held-out problems are
disjoint by construction: a hash of the question decides its split.
"""

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from unmask.errors import ConfigError, unknown
from unmask.tasks import arithmetic, chain, counting, editing, equations, expressions, gsm_symbolic, lists, sorting
from unmask.tasks.problem import Problem, Split
from unmask.tasks.voice import WORDINGS, Wording


class Worded(Protocol):
    """A task whose answers are worded in one of several ways."""

    def __call__(self, rng: random.Random, wording: Wording | None = None) -> Problem: ...


TASKS: Mapping[str, Worded] = {
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


def problems(weights: Mapping[str, float] | str, split: Split, seed: int, wording: Wording | None = None) -> Iterator[Problem]:
    """An endless stream of problems of one split: of one task by name, or of a mixture by weights.

    With a `wording` all answers are worded alike. Questions repeat, sooner if a task has few of them.

    Raises ConfigError for an unknown task, or a wording of a task that has only one.

    >>> next(problems("chain", "test", seed=0)).question
    'Compute 78 - 7 + 2 + 2 + 9.'
    """
    weights = {weights: 1.0} if isinstance(weights, str) else weights
    for name in weights:
        if name not in EVERY:
            raise unknown("task", name, EVERY)
        if wording is not None and name not in TASKS:
            raise ConfigError(f"task '{name}' has one wording: leave the wording out, or take one of {', '.join(TASKS)}")
    if wording is not None and wording not in WORDINGS:
        raise unknown("wording", wording, WORDINGS)
    samples = EVERY if wording is None else {name: functools.partial(TASKS[name], wording=wording) for name in weights}
    return _draw(samples, weights, split, random.Random(f"{split}-{seed}"))


def _draw(
    samples: Mapping[str, Callable[[random.Random], Problem]], weights: Mapping[str, float], split: Split, rng: random.Random
) -> Iterator[Problem]:
    names, shares = list(weights), list(weights.values())
    while True:
        problem = samples[rng.choices(names, shares)[0]](rng)
        if problem.split == split:
            yield problem
