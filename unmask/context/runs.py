"""Rows whose keys and values lie in one piece of the pool each, so that they can be read where they lie."""

from collections.abc import Iterable
from typing import NamedTuple


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
