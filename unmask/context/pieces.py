"""How the queries of a forward lie behind each other, as numbers on the host: a few for each query, none for each token.

Where a token stands and where its keys and values are kept differ from its place in the forward by two numbers that all
tokens of a stretch have in common (`Stretches`). The device makes of them what it needs for each token (`laid_out`).

Shapes: N query tokens, M of them remembered, G stretches, P pages of a row, S rows of a page table.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from unmask.context.pool import PAGE, pages_for
from unmask.context.query import Query
from unmask.kernels.paged import stored

Item = TypeVar("Item")


class Piece(NamedTuple):
    """One state of a row's query, as it lies in the forward."""

    row: int  # number of its query
    query: Query
    state: int
    place: int  # of its first token among the N

    @property
    def shift(self) -> int:
        """How far behind their own slots its queried positions are kept."""
        query = self.query.plan.query
        return 0 if self.state == 0 else self.query.copies - query.start + (self.state - 1) * (query.stop - query.start)

    @property
    def predicted(self) -> Sequence[int]:
        """The places of its block's tokens among the N; any place for a token that is not queried."""
        # Before the suffix a slot's number is its position, so the block's place in the query is a difference of the two.
        begin = self.place + self.query.start - self.query.plan.query.start
        places = range(begin, begin + self.query.length)
        first, last = self.place, self.place + self.query.plan.tokens - 1
        if first <= begin and places.stop - 1 <= last:
            return places
        return [min(max(place, first), last) for place in places]

    def before(self, last: int) -> list[int]:
        """The place of the token before each of those; `last` is that of the last token of the query before."""
        begin = last if self.query.follows else self.place
        return [place - 1 if place > self.place else begin for place in self.predicted]

    @property
    def in_one_piece(self) -> tuple[int, int] | None:
        """The pool's slot from which on all lies that it sees, and how many slots that are; None: it does not."""
        pages, seen = self.query.pages, len(self.query.plan.positions)
        whole = pages_for(seen)
        if self.shift or pages[:whole] != tuple(range(pages[0], pages[0] + whole)):
            return None
        return pages[0] * PAGE, seen

    @property
    def past(self) -> tuple[int, int, int, int]:
        """`seen`, `begin`, `end`, `shift` of `Past`."""
        plan = self.query.plan
        return len(plan.positions), plan.query.start, plan.query.stop, self.shift


class Stretches(NamedTuple):
    """Stretches of tokens at consecutive positions, in consecutive slots of one row; lists of one number each.

    Attributes:
        end: the place behind the last token of each.
        position, slot: how far a token's position, and its slot in its row, lie behind its place.
        row: of a page table.
    """

    end: list[int]
    position: list[int]
    slot: list[int]
    row: list[int]

    def add(self, end: int, position: int, slot: int, row: int) -> None:
        """One more."""
        for whole, number in zip(self, (end, position, slot, row), strict=True):
            whole.append(number)

    @classmethod
    def of(cls, pieces: Sequence[Piece], rows: Sequence[int] | None = None, *, padding: int = 0) -> "Stretches":
        """Of pieces, whose queries have these rows of a page table; None: the first has the first, and so on.

        What lies between two of them is kept from the first slot of the row `padding` on.
        """
        made, free = cls([], [], [], []), 0
        for piece in pieces:
            plan, place = piece.query.plan, piece.place
            if free < place:
                made.add(place, -free, -free, padding)
            slot, row = plan.query.start + piece.shift - place, piece.row if rows is None else rows[piece.row]
            for span in plan.spans:
                made.add(place + len(span), span.start - place, slot, row)
                place += len(span)
            free = place
        return made


def laid_out(stretches_4G: Tensor, pages_SP: Tensor, tokens: int, remembered: int) -> tuple[Tensor, Tensor]:
    """The positions [N] of so many tokens, and the pool's slots [M] of the first that are remembered.

    A slot behind all pages of the table is its row's last one.

    >>> stretches = Stretches(end=[2, 3], position=[4, 7], slot=[4, 3], row=[1, 1])
    >>> laid_out(torch.tensor(stretches), torch.tensor([[0], [2]]), 3, 3)
    (tensor([4, 5, 9]), tensor([36, 37, 37]))
    """
    place_N = torch.arange(tokens, device=stretches_4G.device)
    of_N = torch.searchsorted(stretches_4G[0], place_N, right=True)
    position_N, slot_N, row_N = stretches_4G[1:].index_select(1, of_N).unbind(0)
    slot_M = (slot_N[:remembered] + place_N[:remembered]).clamp_(max=pages_SP.shape[1] * PAGE - 1)
    return position_N + place_N, stored(pages_SP, row_N[:remembered], slot_M, page=PAGE)


def packed(queries: Sequence[Query], tile: int = 1) -> list[Piece]:
    """Every state of every query, queries of a group behind each other; each begins at a multiple of `tile`."""
    pieces, place = [], 0
    asked = [(row, query) for row, query in enumerate(queries) if query.plan.tokens]
    for row, query in sorted(asked, key=lambda numbered: kind(numbered[1])):
        for state in range(query.states):
            pieces.append(Piece(row, query, state, place))
            place += -(-query.plan.tokens // tile) * tile
    return pieces


def kind(query: Query) -> tuple[bool, int, int, int]:
    """What the queries of a group share; those that are remembered come first.

    What is seen is alike within a factor of two, so that no row pays for another's much longer prompt.
    """
    plan = query.plan
    seen = 0 if query.alone else len(plan.positions).bit_length()
    return not query.pages, seen, plan.tokens, (plan.block or 0) if query.masked else 0


def reading(queries: Sequence[Query], pieces: Sequence[Piece]) -> tuple[list[int], list[int]]:
    """`read` and `before` of a forward."""
    read, before = list[int](), list[int]()
    places = {(piece.row, piece.state): piece for piece in pieces}
    last = 0  # of the query before
    for row, query in enumerate(queries):
        for state in range(query.states if query.length else 0):
            piece = places.get((row, state))
            read += [last] * query.length if piece is None else piece.predicted
            before += [last] * query.length if piece is None else piece.before(last)
        if query.plan.tokens:
            last = places[row, 0].place + query.plan.tokens - 1
    return read, before


def starts_of(pieces: Iterable[Piece]) -> list[int]:
    """Where whole sequences begin, and the last one ends, counted from the first."""
    return list(itertools.accumulate((piece.query.plan.tokens for piece in pieces), initial=0))


def chained(parts: Iterable[Sequence[Item]]) -> list[Item]:
    """All of them, one behind the other."""
    return list(itertools.chain.from_iterable(parts))
