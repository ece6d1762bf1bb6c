"""Intervals and paired tests. Pure: numbers in, numbers out.

Every method answers the same items, so methods are compared item by item: the difficulty of the items cancels out, and a
difference shows with a quarter of the items that two separate samples would need.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 2000


class Interval(NamedTuple):
    """An estimate with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(right: int, n: int, z: float = 1.96) -> Interval:
    """Wilson's score interval of a proportion, 95 % by default.

    >>> [round(bound, 3) for bound in wilson(90, 100)]
    [0.9, 0.826, 0.945]
    """
    share = right / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)
    return Interval(share, max(low, 0.0), min(high, 1.0))


class McNemar(NamedTuple):
    """Items that only one of two methods got right, and the probability of such a split by chance."""

    gained: int
    lost: int
    p: float


def mcnemar(base: Sequence[bool], other: Sequence[bool]) -> McNemar:
    """McNemar's exact test of two methods on the same items, two-sided (Biometrika 34, 1947; exact: binomial with 1/2).

    >>> mcnemar([True, True, True, False], [False, False, True, True])
    McNemar(gained=1, lost=2, p=1.0)
    """
    gained = sum(new and not old for old, new in zip(base, other, strict=True))
    lost = sum(old and not new for old, new in zip(base, other, strict=True))
    odd = gained + lost
    tail = sum(math.comb(odd, count) for count in range(min(gained, lost) + 1))
    return McNemar(gained, lost, min(1.0, tail / 2 ** (odd - 1)) if odd else 1.0)


def loss_bound(lost: float, gained: float, n: float) -> float:
    """Upper 95 % bound, one-sided, of the accuracy that a method loses against another on the same items, as a share of 1.

    The largest loss that the score test of matched pairs does not reject (Tango, Statistics in Medicine 17, 1998), with a
    continuity correction of half an item. The adjusted Wald interval (Agresti & Min, Statistics in Medicine 24, 2005) is
    simpler, but too optimistic if few answers differ: it passes a loss of 0.7 points as within 0.7 in 19 % of samples of 240.

    Args:
        lost, gained: items that only the other method, or only this one, got right; expected numbers may be fractions.
        n: the number of all items.

    >>> round(loss_bound(0, 0, 400), 4), round(loss_bound(12, 8, 400), 4)
    (0.009, 0.0313)
    """
    z = 1.6449

    def rejected(loss: float) -> bool:
        # The most likely share of gained items if this is the true loss.
        b = (2 * n - lost + gained) * loss - lost - gained
        share = (math.sqrt(max(0.0, b * b + 8 * n * gained * loss * (1 - loss))) - b) / (4 * n)
        return n * loss - (lost - gained) - 0.5 >= z * math.sqrt(n * max(0.0, 2 * share + loss * (1 - loss)))

    low, high = -1.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if rejected(middle) else (middle, high)
    return high


def mean(values: Sequence[float]) -> Interval:
    """A mean with its bootstrap interval: items resampled with replacement.

    >>> mean([3.0, 3.0, 3.0])
    Interval(value=3.0, low=3.0, high=3.0)
    """
    drawn_DN = np.asarray(values, dtype=float)[_resample(len(values))]
    return _interval(float(np.mean(values)), drawn_DN.mean(axis=1))


def ratio(values: Sequence[float], base: Sequence[float]) -> Interval:
    """The mean of `values` divided by that of `base`, on the same items, with its bootstrap interval.

    >>> ratio([1.0, 2.0], [2.0, 4.0])
    Interval(value=0.5, low=0.5, high=0.5)
    """
    rows_DN = _resample(len(values))
    over, under = np.asarray(values, dtype=float), np.asarray(base, dtype=float)
    drawn_D = over[rows_DN].mean(axis=1) / under[rows_DN].mean(axis=1)
    return _interval(float(over.mean() / under.mean()), drawn_D)


def difference(values: Sequence[float], base: Sequence[float]) -> Interval:
    """The mean of `values` minus that of `base`, on the same items, with its bootstrap interval.

    >>> difference([1.0, 0.0], [0.0, 1.0]).value
    0.0
    """
    return mean([value - other for value, other in zip(values, base, strict=True)])


def _resample(n: int) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
    """Rows of a bootstrap, [DRAWS, n]; the same for the same n, so that reports are reproducible."""
    return np.random.default_rng(n).integers(0, n, (DRAWS, n))


def _interval(value: float, drawn_D: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Interval:
    low, high = np.quantile(drawn_D, (0.025, 0.975))
    return Interval(value, float(low), float(high))
