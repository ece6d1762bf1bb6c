"""What one forward over any rows sees and recomputes, as tensors; the rows' own plans become one here.

The queries of a forward lie packed, one behind the other without padding, so that a refresh of a thousand tokens and a
block of thirty-two cost what they hold. Only attention asks who belongs to whom: queries of one length attend as a group.

Shapes: N query tokens of all rows together, M of them remembered, R tokens to predict, B queries of a group, S slots that
each of them sees, P pages.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.context.policy import RowPlan
from unmask.context.pool import PAGE
from unmask.kernels.paged import places, stored


class Query(NamedTuple):
    """What one row asks of a forward.

    Attributes:
        plan: the positions that exist for it, and which of them are queried.
        tokens: the ids at the queried positions.
        start, length: where its block stands; the block's tokens are predicted.
        states: how many states of the block to try (1 unless drafting). Each is a query of its own that sees its own copy
            of the queried positions and nothing of the others'.
        pages: the row's key/value memory; empty where nothing is remembered.
        copies: the slot of the row behind which the copies of the queried positions live.
    """

    plan: RowPlan
    tokens: Sequence[int]
    start: int
    length: int
    states: int = 1
    pages: tuple[int, ...] = ()
    copies: int = 0

    def shift(self, state: int) -> int:
        """How far behind their own slots a state's queried positions are kept."""
        return 0 if state == 0 else self.copies - self.plan.query.start + (state - 1) * self.plan.tokens


def entire(tokens: Sequence[int], start: int, end: int) -> Query:
    """A forward over a whole row that remembers nothing and predicts the tokens from `start` to `end`."""
    return Query(RowPlan(list(range(len(tokens))), slice(0, len(tokens))), tokens, start, end - start)


@dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """What each query of a group remembers, as numbers on the device: a kernel reads them, plain attention the tables below.

    Query b sees slots s < seen[b] of its row. Those that it queries anew, begin[b] <= s < end[b], it sees shift[b] slots
    further on, where its own copy of them is kept. Slot s of a row is slot pages[b, s // PAGE] * PAGE + s % PAGE of the pool.
    """

    pages_BP: Tensor  # int64 and contiguous, as all of them
    seen_B: Tensor
    begin_B: Tensor
    end_B: Tensor
    shift_B: Tensor
    shortest: int  # no query sees fewer slots than this, as far as the host knows
    longest: int  # S: and none more

    @cached_property
    def keys(self) -> Tensor:
        """The slots of the pool that hold what each query sees, [B, S]."""
        slot_S = torch.arange(self.longest, device=self.seen_B.device)
        return places(slot_S, self.pages_BP, self.begin_B, self.end_B, self.shift_B, page=PAGE)

    @cached_property
    def visible(self) -> Tensor | None:
        """Which of them it sees, [B, S]; None: all."""
        if self.shortest == self.longest:
            return None
        return torch.arange(self.longest, device=self.seen_B.device) < self.seen_B[:, None]


class Group(NamedTuple):
    """Queries of one length, one behind the other, that attend in one call: to what is remembered, or to itself alone."""

    queries: int  # B
    length: int
    past: Past | None


class ForwardPlan(NamedTuple):
    """One model call.

    The query tokens stand at `positions` (rotary position ids, gaps allowed). The fresh keys and values of the first M
    go to `slots` before anybody attends. `read` says which of the N are to be predicted, row by row in the order of the
    rows, and `first` where the query of each begins.
    """

    positions_N: Tensor  # int64
    read_R: Tensor  # int64
    first_R: Tensor  # int64
    groups: tuple[Group, ...]
    slots_M: Tensor  # int64


def assemble(queries: Sequence[Query], *, device: torch.device) -> tuple[Tensor, ForwardPlan]:
    """Pack rows of any length, block and phase into one forward: its tokens, int64 [N], and its plan.

    The tokens of every state are the row's own; who drafts puts the guesses in at `read`.
    """
    packed = sorted(
        ((number, state) for number, query in enumerate(queries) for state in range(query.states)),
        key=lambda piece: _kind(queries[piece[0]]),
    )
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    owners: list[int] = []
    begins: dict[tuple[int, int], int] = {}
    for number, state in packed:
        query = queries[number]
        begins[number, state] = len(tokens)
        tokens += query.tokens
        positions += query.plan.positions[query.plan.query]
        if query.pages:
            shift = query.shift(state)
            slots += range(query.plan.query.start + shift, query.plan.query.stop + shift)
            owners += [number] * query.plan.tokens
    read: list[int] = []
    first: list[int] = []
    for number, query in enumerate(queries):
        # Before the suffix a slot's number is its position, so the block's place in the query is a difference of the two.
        place = query.start - query.plan.query.start
        for state in range(query.states):
            begin = begins[number, state]
            read += range(begin + place, begin + place + query.length)
            first += [begin] * query.length

    kinds = [list(pieces) for _, pieces in itertools.groupby(packed, key=lambda piece: _kind(queries[piece[0]]))]
    widest = max(1, *(len(query.pages) for query in queries))
    tokens_N, positions_N, read_R, first_R, owners_M, slots_M, pages, *numbers = ship(
        tokens,
        positions,
        read,
        first,
        owners,
        slots,
        page_table([query.pages for query in queries], widest),
        *(_past(pieces, queries) for pieces in kinds),
        device=device,
    )
    pages_QP = pages.view(-1, widest)
    plan = ForwardPlan(
        positions_N=positions_N,
        read_R=read_R,
        first_R=first_R,
        groups=tuple(_group(pieces, queries, part, pages_QP) for pieces, part in zip(kinds, numbers, strict=True)),
        slots_M=stored(pages_QP, owners_M, slots_M, page=PAGE),
    )
    return tokens_N, plan


def page_table(rows: Sequence[Sequence[int]], widest: int) -> list[int]:
    """Rows' pages, each row filled up to this many, one behind the other.

    >>> page_table([(5, 2), (7,)], 3)
    [5, 2, 0, 7, 0, 0]
    """
    return [page for pages in rows for page in (*pages, *[0] * (widest - len(pages)))]


def ship(*parts: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
    """Whole numbers of the host on the device, int64, in one copy that nobody waits for."""
    packed = stage(list(itertools.chain(*parts)), device).to(device, non_blocking=True)
    return torch.split(packed, [len(part) for part in parts])


def stage(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers where a copy to the device need not be waited for: on the host, pinned for a GPU."""
    return torch.tensor(numbers, dtype=torch.int64, pin_memory=device.type == "cuda")


def _kind(query: Query) -> tuple[bool, int, int]:
    """What the queries of a group share; those that are remembered come first.

    What is seen is alike within a factor of two, so that no row pays for another's much longer prompt.
    """
    return not query.pages, 0 if query.plan.fresh else len(query.plan.positions).bit_length(), query.plan.tokens


def _past(pieces: list[tuple[int, int]], queries: Sequence[Query]) -> list[int]:
    """Owner, slots seen, begin, end and shift of each query of a group; nothing where they remember nothing."""
    numbers: list[int] = []
    for number, state in pieces:
        query = queries[number]
        if not query.plan.fresh:
            numbers += (number, len(query.plan.positions), query.plan.query.start, query.plan.query.stop, query.shift(state))
    return numbers


def _group(pieces: list[tuple[int, int]], queries: Sequence[Query], numbers: Tensor, pages_QP: Tensor) -> Group:
    plans = [queries[number].plan for number, _ in pieces]
    if plans[0].fresh:
        return Group(len(pieces), plans[0].tokens, None)
    owner_B, seen_B, begin_B, end_B, shift_B = numbers.view(-1, 5).t().contiguous().unbind(0)
    widest = max(len(queries[number].pages) for number, _ in pieces)
    layouts = [len(plan.positions) for plan in plans]
    past = Past(
        pages_BP=pages_QP[:, :widest].index_select(0, owner_B),
        seen_B=seen_B,
        begin_B=begin_B,
        end_B=end_B,
        shift_B=shift_B,
        shortest=min(layouts),
        longest=max(layouts),
    )
    return Group(len(pieces), plans[0].tokens, past)
