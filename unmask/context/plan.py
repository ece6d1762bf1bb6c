"""What one forward over any rows sees and recomputes, as tensors; the rows' own plans become one here.

The queries of a forward lie packed, one behind the other without padding, so that a refresh of a thousand tokens and a
block of thirty-two cost what they hold. Only attention asks who belongs to whom: queries of one length attend as a group.

Shapes: N query tokens of all rows together, M of them remembered, R tokens to predict, B queries of a group, S slots that
each of them sees, P pages.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.context.policy import RowPlan
from unmask.context.pool import PAGE


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


class Group(NamedTuple):
    """Queries of one length, one behind the other, that attend in one call.

    Each attends to what the slots `keys` hold, narrowed by `visible` where rows see fewer; without keys to itself alone.
    """

    queries: int  # B
    length: int
    keys_BS: Tensor | None  # int64
    visible_BS: Tensor | None  # bool


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

    widest = max(1, *(len(query.pages) for query in queries))
    pages_BP = torch.tensor([[*query.pages, *[0] * (widest - len(query.pages))] for query in queries], device=device)

    def stored(owner: Tensor, slot: Tensor) -> Tensor:
        """A row's own slots as slots of the pool."""
        return pages_BP[owner, slot // PAGE] * PAGE + slot % PAGE

    groups = [
        _group([(number, queries[number], state) for number, state in pieces], stored, device)
        for _, pieces in itertools.groupby(packed, key=lambda piece: _kind(queries[piece[0]]))
    ]
    plan = ForwardPlan(
        positions_N=torch.tensor(positions, device=device),
        read_R=torch.tensor(read, device=device),
        first_R=torch.tensor(first, device=device),
        groups=tuple(groups),
        slots_M=stored(*(torch.tensor(part, dtype=torch.int64, device=device) for part in (owners, slots))),
    )
    return torch.tensor(tokens, device=device), plan


def _kind(query: Query) -> tuple[bool, int, int]:
    """What the queries of a group share; those that are remembered come first.

    What is seen is alike within a factor of two, so that no row pays for another's much longer prompt.
    """
    return not query.pages, 0 if query.plan.fresh else len(query.plan.positions).bit_length(), query.plan.tokens


def _group(pieces: list[tuple[int, Query, int]], stored: Callable[[Tensor, Tensor], Tensor], device: torch.device) -> Group:
    plan = pieces[0][1].plan
    if plan.fresh:
        return Group(len(pieces), plan.tokens, None, None)
    numbers = [
        [number, len(query.plan.positions), query.plan.query.start, query.plan.query.stop, query.shift(state)]
        for number, query, state in pieces
    ]
    owner_B1, layout_B1, begin_B1, end_B1, shift_B1 = torch.tensor(numbers, device=device)[..., None].unbind(1)
    layouts = {row[1] for row in numbers}
    slot_S = torch.arange(max(layouts), device=device)
    queried_BS = (slot_S >= begin_B1) & (slot_S < end_B1)
    return Group(
        queries=len(pieces),
        length=plan.tokens,
        keys_BS=stored(owner_B1, slot_S + shift_B1 * queried_BS),
        visible_BS=None if len(layouts) == 1 else slot_S < layout_B1,
    )
