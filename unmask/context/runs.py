"""What lies one behind the other: positions without a gap, and keys and values in one piece of the pool."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


def spans(positions: Sequence[int], begin: int, end: int) -> list[range]:
    """The runs without a gap of positions[begin:end], which rise.

    By halves, so that a run takes no longer than its number of gaps.

    >>> spans([0, 1, 2, 3, 8, 9], 1, 6)
    [range(1, 4), range(8, 10)]
    """
    if begin == end:
        return []
    first, last = positions[begin], positions[end - 1]
    if last - first == end - 1 - begin:
        return [range(first, last + 1)]
    middle = (begin + end) // 2
    (*left, one), (other, *right) = spans(positions, begin, middle), spans(positions, middle, end)
    joined = [range(one.start, other.stop)] if one.stop == other.start else [one, other]
    return [*left, *joined, *right]


class Run(NamedTuple):
    """Queries whose rows have what they see in one piece of the pool, and as far from each other: it is read where it lies.

    >>> Run.joined([(64, 20), (96, 20), (128, 20), None, (32, 20)])
    [Run(queries=3, begin=64, seen=20, apart=32), None, Run(queries=1, begin=32, seen=20, apart=0)]
    """

    queries: int
    begin: int  # the pool's slot at which the first row begins
    seen: int  # slots
    apart: int  # slots from one row's first to the next one's

    @classmethod
    def joined(cls, places: Iterable[tuple[int, int] | None]) -> "list[Run | None]":
        """Of each query's `begin` and `seen`; None: what it sees does not lie in one piece."""
        runs: list[Run | None] = []
        for place in places:
            last = runs[-1] if runs else None
            if place is None or last is None or last.seen != place[1]:
                runs.append(None if place is None else cls(1, *place, 0))
                continue
            apart = place[0] - last.begin - (last.queries - 1) * last.apart
            if apart > 0 and last.apart in (0, apart):
                runs[-1] = last._replace(queries=last.queries + 1, apart=apart)
            else:
                runs.append(cls(1, *place, 0))
        return runs
