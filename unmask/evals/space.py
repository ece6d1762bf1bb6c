"""The numbers of a method that a calibration may change, and their ranges: from a method to numbers and back.

Each setting declares its range beside its bound (unmask/decode/settings.py). Settings that change the cost of a forward
stay as they are: cache, refresh, drafts, and the block length, which must also divide the answer.
"""

from collections.abc import Mapping

from unmask.decode.settings import Child, Part, bounds, ranges
from unmask.decode.settings import Range as Range
from unmask.errors import ConfigError
from unmask.methods.method import Method
from unmask.methods.table import commit_rules


def space(method: Method, answer_length: int, block: int | None = None) -> dict[str, Range]:
    """The ranges of a method's numbers, wide enough for their present values.

    Args:
        answer_length: in tokens.
        block: tokens per block of the grid of a block-causal model, where steps are counted per block; None: full attention.

    Raises ConfigError if its blocks or steps do not divide answers of `answer_length` tokens, or if there is nothing to
    search.

    >>> import unmask
    >>> space(unmask.method("streaming-dllm", threshold=0.4), 128)["commit.threshold"]
    Range(low=0.4, high=1.0, step=None)
    >>> space(unmask.method("vanilla"), 128, block=8)
    {'commit.steps': Range(low=1, high=8, step=1)}
    """
    found = {key: own for key, (_, own) in _searched(method, answer_length, block).items()}
    if not found:
        name = method.name or f"a method with the rule {method.commit.name}"
        raise ConfigError(f"{name} has no number to search; parts with numbers are {', '.join(searchable())}")
    return found


def numbers(method: Method, answer_length: int, block: int | None = None) -> dict[str, float]:
    """A method's numbers by their dotted keys; a rule that is off has none. Arguments as of `space`.

    >>> import unmask
    >>> numbers(unmask.method("vanilla"), 128), numbers(unmask.method("fast-dllm"), 128)
    ({'commit.steps': 128}, {'commit.threshold': 0.9})
    """
    return {key: value for key, (value, _) in _searched(method, answer_length, block).items()}


def tuned(method: Method, values: Mapping[str, float]) -> Method:
    """The method with some of its numbers changed, real ones rounded to three decimals.

    >>> import unmask
    >>> tuned(unmask.method("fast-dllm"), {"commit.threshold": 0.87654}).commit
    Threshold(threshold=0.877)
    """
    return method.change(**{key: round(value, 3) for key, value in values.items()})


def searchable() -> list[str]:
    """The dotted keys of all numbers that a calibration can change in some method."""
    kinds: list[tuple[str, type[Part]]] = [("commit", kind) for kind in commit_rules().values()]
    kinds += [(name, bound.kind) for name, bound in bounds(Method).items() if isinstance(bound, Child)]
    return list(dict.fromkeys(f"{name}.{leaf}" for name, kind in kinds for leaf in ranges(kind)))


def _searched(method: Method, answer_length: int, block: int | None) -> dict[str, tuple[float, Range]]:
    # On a grid an answer may end inside a block, so that only a block has a number of steps.
    length, counted = (method.block(answer_length), answer_length) if block is None else (block, block)
    parts = method.parts.items()
    return {f"{name}.{leaf}": own for name, part in parts for leaf, own in part.searched(counted, length).items()}
