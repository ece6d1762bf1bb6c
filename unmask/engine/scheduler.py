"""Which requests join and which rows run: pure functions of numbers, and one small state that says whose turn it is.

Work is shared out twice, between API keys and between the requests of each: no key and no request gets more query tokens
than another that waits, however many rows it has, how long they are and how much they draft. None starves: what waits
moves up until it is first, and the first always fits, because what can never fit is refused.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from unmask.engine.request import Owner


class Row(NamedTuple):
    """A row that waits: whose it is, and what it asks for: pages of memory to join, query tokens to run.

    `refresh`: to run more than a step of its block, which others' streams would wait for.
    """

    owner: Owner
    cost: int
    refresh: bool = False


class Held:
    """Seats and pages that running rows hold, by API key and by request."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows, self.pages = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """One more row."""
        for whose in row.owner.named:
            self.rows[whose] += 1
            self.pages[whose] += row.cost

    def leaves_room(self, row: Row, *, pages: int, rows: int) -> bool:
        """Whether no key or request would hold more with this row than is free, so that there is always room for another.

        The dynamic threshold of shared buffers (Choudhury and Hahne, 1998). What holds nothing yet may always join.
        """
        return all(
            self.rows[whose] == 0 or (self.rows[whose] < rows and self.pages[whose] + row.cost <= pages)
            for whose in row.owner.named
        )


def admit(waiting: Sequence[Row], held: Held, *, pages: int, rows: int) -> int | None:
    """Which of the rows that wait for memory joins next, given what is free; None: nothing does.

    The key and then the request that holds least comes first, and then the one that has waited longest. Where that one finds
    no memory, none overtakes it: a small one might otherwise keep it waiting for ever.

    >>> many, one = Owner("", "many"), Owner("", "one")
    >>> admit([Row(many, 4), Row(one, 4)], Held([Row(many, 4)]), pages=8, rows=5)
    1
    >>> admit([Row(many, 4)], Held([Row(many, 4), Row(many, 4)]), pages=8, rows=5) is None
    True
    """
    if rows < 1:
        return None
    ready = [place for place, row in enumerate(waiting) if held.leaves_room(row, pages=pages, rows=rows)]

    def order(place: int) -> tuple[list[int], int]:
        return [held.rows[whose] for whose in waiting[place].owner.levels], place

    first = min(ready, key=order, default=None)
    return None if first is None or waiting[first].cost > pages else first


class _Flows:
    """Flows that take turns: start-time fair queueing (Goyal, Vin and Cheng, 1996), in query tokens.

    A flow's virtual time goes on by what it was served; one that comes new, or comes back, begins with the time of the flow
    that was served last.
    """

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._now = 0

    def order(self, flows: Mapping[str, Sequence[int]], costs: Sequence[int], quantum: int) -> tuple[list[int], list[int]]:
        """The rows of all flows by the time when they would be served: first those not early, then those that are.

        Early is what would bring its flow more than the quantum ahead of another that waits.
        """
        self._times = {name: self._times.get(name, self._now) for name in flows}
        tags = {
            name: list(accumulate((costs[place] for place in places), initial=self._times[name]))[1:]
            for name, places in flows.items()
        }
        firsts = sorted(served[0] for served in tags.values())
        found: tuple[list[tuple[int, int]], list[tuple[int, int]]] = [], []
        for name, places in flows.items():
            others = firsts[1:] if tags[name][0] == firsts[0] else firsts
            most = others[0] + quantum if others else math.inf
            for place, tag in zip(places, tags[name], strict=True):
                found[tag > most].append((tag, place))
        ready, early = ([place for _, place in sorted(part)] for part in found)
        return ready, early

    def serve(self, name: str, cost: int) -> None:
        """A flow of the last order was served."""
        self._now = max(self._now, self._times[name])
        self._times[name] += cost


class Turns:
    """Whose rows share the next forward."""

    def __init__(self, *, budget: int, share: int, refresh: int | None = None) -> None:
        """`budget` query tokens hold in a forward, and `share` of them the rows of one request; one row alone may have more.

        `refresh` of them hold refreshes; None: all. The first of these may have more too.
        """
        self._budget, self._share = budget, share
        self._refresh = math.inf if refresh is None or refresh >= budget else refresh
        self._keys = _Flows()
        self._requests: dict[str, _Flows] = {}

    def narrow(self, tokens: int) -> None:
        """A forward of that many query tokens was too large for the device: from now on half as many, or one row.

        >>> turns = Turns(budget=1000, share=500)
        >>> turns.narrow(800)
        >>> turns.pick([Row(Owner(), cost) for cost in (300, 500, 100)]), turns.pick([Row(Owner(), 500), Row(Owner(), 500)])
        ([0, 2], [0])
        """
        self._budget, self._share = max(1, tokens // 2), min(self._share, max(1, tokens // 2))

    def pick(self, line: Sequence[Row]) -> list[int]:
        """Indices of the rows that run, which are served with that; `line` is longest waiting first.

        A row that does not fit is left out and those behind it may run, so the refreshes of long prompts take turns beside
        the block forwards of all others. Of refreshes beyond their budget none overtakes another. Up to half a share is
        filled whoever is ahead, and is no one's turn: a small forward takes about as long as a smaller one.

        >>> Turns(budget=1000, share=500).pick([Row(Owner(), cost) for cost in (32, 900, 900, 32)])
        [0, 1, 3]
        >>> Turns(budget=1000, share=500).pick([Row(Owner(), cost, True) for cost in (900, 900, 50)])
        [0, 2]
        >>> turns = Turns(budget=1000, share=500, refresh=300)
        >>> turns.pick([Row(Owner(), 200, True), Row(Owner(), 200, True), Row(Owner(), 50, True), Row(Owner(), 32)])
        [0, 3]
        >>> many, one = Row(Owner("", "many"), 100), Row(Owner("", "one"), 100)
        >>> Turns(budget=1000, share=200).pick([many, many, many, one])
        [0, 1, 3]
        """
        quantum = self._share // 2
        ready, early = self._order(line, quantum)
        picked, total, refreshed, spent = list[int](), 0, 0, Counter[Owner]()
        full = False  # of refreshes
        for places, most in ((ready, self._budget), (early, min(quantum, self._budget))):
            for place in places:
                owner, cost, refresh = line[place]
                share = self._share if owner.request and spent[owner] else self._budget
                fits = total + cost <= most and spent[owner] + cost <= share
                full = full or (refresh and refreshed > 0 and refreshed + cost > self._refresh)
                if refresh and full:
                    continue
                if fits or (places is ready and not picked):  # a row wider than a narrowed budget runs alone
                    picked.append(place)
                    total += cost
                    refreshed += cost * refresh
                    spent[owner] += cost
                    if places is ready:
                        self._keys.serve(owner.key, cost)
                        self._requests[owner.key].serve(owner.request, cost)
        return sorted(picked)

    def _order(self, line: Sequence[Row], quantum: int) -> tuple[list[int], list[int]]:
        """The places of the line in the order of their turns: those not early, and the early ones."""
        costs = [row.cost for row in line]
        rows: dict[str, dict[str, list[int]]] = {}
        for place, (owner, *_) in enumerate(line):
            rows.setdefault(owner.key, {}).setdefault(owner.request, []).append(place)
        self._requests = {key: self._requests.get(key) or _Flows() for key in rows}
        ordered = {key: self._requests[key].order(requests, costs, quantum) for key, requests in rows.items()}
        ready, early = self._keys.order({key: ready for key, (ready, _) in ordered.items()}, costs, quantum)
        return ready, early + [place for _, ahead in ordered.values() for place in ahead]
