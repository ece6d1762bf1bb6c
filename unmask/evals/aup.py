"""Accuracy under parallelism (AUP): d3LLM's one number for a method measured at several speeds (arXiv 2601.07568).

Pure: points in, numbers out. A point is (tokens per forward, accuracy in percent), a curve the points of one method along one
option of a sweep, with the point of one token per forward where that was measured.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

Point = tuple[float, float]

STEEPNESS = 3.0  # of the penalty for accuracy below the best
ALLOWANCE = 5.0  # points below the slowest point's accuracy at which a point still counts
# The threshold's values of a curve that is to be compared with others: `--sweep threshold=grid`.
GRID = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99, 0.997)


def aup(points: Iterable[Point], best: float) -> float:
    """The area under accuracy, weighted, over tokens per forward.

    Points whose accuracy y is more than 5 below the slowest one's are left out. The slowest counts rho y; each step between
    neighbours counts the mean of y W(y) at its ends, times the tokens per forward gained, where the weight
    W(y) = min(1, exp(-3 (1 - y / best))) says how much of an accuracy below the best is left.

    Args:
        points: (tokens per forward, accuracy in percent), one or more, in any order.
        best: the best accuracy of any compared system on the task, in percent.

    1 * 80 + (5 - 1) * (80 + 78 * exp(-3 * 0.025)) / 2 = 384.7, and (9, 70) is too far below 80 to count:

    >>> round(aup([(1.0, 80.0), (9.0, 70.0), (5.0, 78.0)], best=80.0), 1)
    384.7
    """
    ordered = sorted(points)
    (slowest, first), *_ = ordered
    kept = [(rho, y) for rho, y in ordered if y >= first - ALLOWANCE]
    area, before = slowest * first, (slowest, _weighted(first, best))
    for rho, y in kept[1:]:
        now = (rho, _weighted(y, best))
        area += (now[0] - before[0]) * (now[1] + before[1]) / 2
        before = now
    return area


def _weighted(accuracy: float, best: float) -> float:
    return accuracy * min(1.0, math.exp(-STEEPNESS * (1 - accuracy / best))) if best else 0.0


# --- curves of a sweep ------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """One method of an evaluation, by the name that it has there: a preset, then `key=value` for each swept option."""

    name: str
    cache: str
    point: Point

    @property
    def preset(self) -> str:
        return self.name.partition(" ")[0]

    @property
    def options(self) -> dict[str, str]:
        return dict(pair.partition("=")[::2] for pair in self.name.split(" ")[1:])


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A method's points along one option.

    Attributes:
        method: the preset, with the options that the curve does not move.
        option, values: what moves along the curve.
        cache: of its forwards.
        baseline: the method whose point of one token per forward was added; None: there is none.
        points: slowest first.
        best: the best accuracy in the comparison, in percent.
        aup: see `aup`.
    """

    method: str
    option: str
    values: tuple[float, ...]
    cache: str
    baseline: str | None
    points: tuple[Point, ...]
    best: float
    aup: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def curves(measured: Sequence[Measured], best: float) -> list[Curve]:
    """One curve per preset and combination of the options beside the first one whose values are numbers.

    vanilla's point belongs to each of them, that of the same cache where there is one.

    >>> found = [Measured("vanilla", "none", (1.0, 80.0)), Measured("r2-dllm threshold=0.9", "dual", (5.0, 78.0))]
    >>> [(curve.method, curve.option, curve.values, round(curve.aup, 1)) for curve in curves(found, best=80.0)]
    [('r2-dllm', 'threshold', (0.9,), 384.7)]
    """
    groups: dict[tuple[str, str, str], list[Measured]] = {}
    for one in measured:
        option = next((key for key, value in one.options.items() if _is_number(value)), None)
        if option is not None:
            rest = " ".join(f"{key}={value}" for key, value in one.options.items() if key != option)
            groups.setdefault((f"{one.preset} {rest}".rstrip(), option, one.cache), []).append(one)
    return [_curve(method, option, cache, group, measured, best) for (method, option, cache), group in groups.items()]


def _curve(method: str, option: str, cache: str, group: Sequence[Measured], measured: Sequence[Measured], best: float) -> Curve:
    plain = [one for one in measured if one.preset == "vanilla" and option not in one.options and one not in group]
    base = next((one for one in plain if one.cache == cache), plain[0] if plain else None)
    points = sorted([*(one.point for one in group), *([base.point] if base else [])])
    return Curve(
        method=method,
        option=option,
        values=tuple(float(one.options[option]) for one in group),
        cache=cache,
        baseline=base.name if base else None,
        points=tuple(points),
        best=best,
        aup=aup(points, best),
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
