"""Tasks: items to answer, and a score for each answer; independent of models and methods.

A task is one module beside this one and one line in unmask.evals.TABLE: a function from a Source to a Task.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask.decode.settings import whole
from unmask.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Source:
    """The choice of a task's items.

    Attributes:
        data: file or folder of a task that is read from disk, or a data set of the hub; None for one that is generated.
        limit: number of items; None: all.
        seed: of the choice of items, if there are more than `limit`.
        shots: worked examples before the question; None: the task's own number.
    """

    data: Path | None = None
    limit: int | None = None
    seed: int = 0
    shots: int | None = None

    def __post_init__(self) -> None:
        whole("limit", self.limit, 1)
        whole("shots", self.shots, 0)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question.

    Attributes:
        id: the same in every run, whatever the limit.
        prompt: the question with its worked examples, without the chat template, which the tokenizer adds.
        reference: an answer that every check accepts.
        group: the key by which results are grouped (steps, level, subject ...); None: not grouped.
        facts: data for the task's own score (a key, unit tests ...).
    """

    id: str
    prompt: str
    reference: str
    group: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Items, and how their answers are scored.

    Attributes:
        name: as `unmask eval` takes it.
        items: in the order in which they are answered.
        metrics: names of the verdicts of `score`; the first one is the accuracy.
        score: (item, answer) -> one verdict per metric. Takes any text and never raises.
        max_new_tokens: length of an answer unless the caller sets another one.
        stop: strings that end an answer.
        shots: worked examples in each prompt.
    """

    name: str
    items: tuple[Item, ...]
    metrics: tuple[str, ...]
    score: Callable[[Item, str], Mapping[str, bool]]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    shots: int = 0


def chosen(items: list[Item], source: Source, where: str) -> tuple[Item, ...]:
    """The first `limit` items in an order that `source.seed` shuffles (seed 0: the order of the file).

    Raises ConfigError if there are fewer.
    """
    if source.limit is not None and source.limit > len(items):
        raise ConfigError(f"{where} has {len(items)} items: ask for fewer than {source.limit}")
    ordered = items if source.seed == 0 else random.Random(source.seed).sample(items, len(items))
    return tuple(ordered[: source.limit])
