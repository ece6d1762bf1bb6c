"""Which numbers of a method a calibration may move, and how far: data, and the way from a method to numbers and back.

What changes the price of a forward stays as it is: cache, refresh, drafts, and the block length, which must also divide the
answer.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from unmask.methods.method import CommitQuota, CommitSchedule, Method


class Range(NamedTuple):
    """From `low` to `high`, both included; `step` None: any number of three decimals, else whole ones that far apart."""

    low: float
    high: float
    step: int | None = None


RANGES: Mapping[str, Range] = {
    "commit.threshold": Range(0.5, 1.0),
    "commit.factor": Range(0.1, 4.0),
    "confidence_cluster.size": Range(2, 8, 1),
    "confidence_cluster.threshold": Range(0.5, 1.0),
    "confidence_cluster.max_unmasked": Range(0, 4, 1),
    "token_cluster.min_length": Range(2, 6, 1),
    "token_cluster.threshold": Range(0.3, 1.0),
    "temporal.steps": Range(2, 8, 1),
    "temporal.threshold": Range(0.3, 1.0),
    "dynamic_threshold.alpha": Range(0.0, 0.6),
    "suffix.window": Range(0, 128, 1),
}


def space(method: Method, answer_length: int) -> dict[str, Range]:
    """The ranges of the numbers that a method has, wide enough for those it has now.

    Raises ConfigError if its blocks or steps do not come out even for answers of `answer_length` tokens.

    >>> import unmask
    >>> space(unmask.method("streaming-dllm", threshold=0.4), 128)["commit.threshold"]
    Range(low=0.4, high=1.0, step=None)
    """
    known = dict(RANGES)
    if isinstance(method.commit, CommitQuota | CommitSchedule):
        method.steps_per_block(answer_length)
        blocks = answer_length // method.block(answer_length)
        known["commit.steps"] = Range(blocks, answer_length, blocks)
    return {
        key: Range(min(known[key].low, value), max(known[key].high, value), known[key].step)
        for key, value in numbers(method, answer_length).items()
    }


def numbers(method: Method, answer_length: int) -> dict[str, float]:
    """A method's numbers by their dotted keys; a rule that is off has none.

    >>> import unmask
    >>> numbers(unmask.method("vanilla"), 128), numbers(unmask.method("fast-dllm"), 128)
    ({'commit.steps': 128}, {'commit.threshold': 0.9})
    """
    settings = method.to_dict()
    if isinstance(method.commit, CommitQuota | CommitSchedule):
        settings["commit"].setdefault("steps", answer_length)  # left out: as many as tokens
    found = {key: _at(settings, key) for key in ("commit.steps", *RANGES)}
    return {key: value for key, value in found.items() if value is not None}


def tuned(method: Method, values: Mapping[str, float]) -> Method:
    """The method with some of its numbers changed, real ones rounded to three decimals.

    >>> import unmask
    >>> tuned(unmask.method("fast-dllm"), {"commit.threshold": 0.87654}).commit
    CommitThreshold(threshold=0.877)
    """
    settings = method.to_dict()
    for key, value in values.items():
        part, leaf = key.split(".")
        settings[part][leaf] = round(value, 3)
    return Method.from_dict(settings)


def _at(settings: Mapping[str, Any], key: str) -> Any:
    part, leaf = key.split(".")
    return settings.get(part, {}).get(leaf)
