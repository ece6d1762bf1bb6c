"""The plan of block forwards made of numbers that are on the device, so that the host need not know them.

What `plan.assemble` makes of queries that see a whole remembered row and query its block alone; its shapes depend on nothing
but how many rows, states and tokens there are.

Shapes: B rows, K states of a block, Q tokens of a query, P pages of a row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.context.plan import ForwardPlan, Group, Past
from unmask.context.pool import PAGE
from unmask.kernels.paged import stored


class Blocks(NamedTuple):
    """Block forwards of like rows: `tokens` are the queries of every state, the last Q - `before` of each to be predicted.

    Row b queries its slots from `begin[b]` on, sees `seen[b]` slots, and keeps its states' copies behind `copies[b]`. `clean`
    are the tokens of the finished block before it, whose keys and values become final first; None: they are. `block` as in
    `Past`, where the query is several blocks.
    """

    tokens_BKQ: Tensor
    before: int
    begin_B: Tensor
    seen_B: Tensor
    copies_B: Tensor
    pages_BP: Tensor
    clean_BQ: Tensor | None = None
    block: int | None = None

    @property
    def queried(self) -> Tensor:
        """All that are queried, in their order in the forward, [N]."""
        tokens_N = self.tokens_BKQ.flatten()
        return tokens_N if self.clean_BQ is None else torch.cat((self.clean_BQ.flatten(), tokens_N))


def assemble_blocks(parts: Sequence[Blocks]) -> tuple[Tensor, ForwardPlan]:
    """Pack them into one forward: its tokens, int64 [N], and its plan."""
    plans, first = [], 0
    for part in parts:
        own = _plan(part, first) if part.clean_BQ is None else _both(part, part.clean_BQ, first)
        plans.append(own)
        first += len(own.positions_N)
    if len(parts) == 1:
        return parts[0].queried, plans[0]
    plan = ForwardPlan(
        positions_N=torch.cat([plan.positions_N for plan in plans]),
        read_R=torch.cat([plan.read_R for plan in plans]),
        before_R=torch.cat([plan.before_R for plan in plans]),
        groups=tuple(group for plan in plans for group in plan.groups),
        slots_M=torch.cat([plan.slots_M for plan in plans]),
    )
    return torch.cat([part.queried for part in parts]), plan


def _both(part: Blocks, clean_BQ: Tensor, first: int) -> ForwardPlan:
    """The plan of one part whose rows query the block before theirs too, in front of their own of one state each."""
    length = clean_BQ.shape[1]
    begin_B = part.begin_B - length
    finished = Blocks(
        tokens_BKQ=clean_BQ[:, None],
        before=0,
        begin_B=begin_B.clamp(min=0),  # of padding, which has no block before its own
        seen_B=part.begin_B.clamp(min=1),
        copies_B=part.copies_B,
        pages_BP=part.pages_BP,
    )
    clean, own = _plan(finished, first), _plan(part, first + clean_BQ.numel())
    last_B1 = clean.read_R.view(-1, length)[:, -1:]
    return ForwardPlan(
        positions_N=torch.cat((clean.positions_N, own.positions_N)),
        read_R=own.read_R,
        before_R=torch.cat((last_B1, own.before_R.view(len(last_B1), -1)[:, 1:]), dim=1).flatten(),
        groups=(*clean.groups, *own.groups),
        slots_M=torch.cat((clean.slots_M, own.slots_M)),
    )


def _plan(part: Blocks, first: int) -> ForwardPlan:
    """The plan of one part whose tokens begin at place `first` of the forward."""
    rows, states, length = part.tokens_BKQ.shape
    device = part.tokens_BKQ.device
    place_Q, shift_BK = torch.arange(length, device=device), _shifts(part)
    slot_BKQ = (part.begin_B[:, None, None] + place_Q).expand(-1, states, -1)
    own_BKQ = slot_BKQ if states == 1 else slot_BKQ + shift_BK[..., None]
    row_B11 = torch.arange(rows, device=device)[:, None, None]
    begin_N1 = torch.arange(first, first + length * rows * states, length, device=device)[:, None]
    read_N = begin_N1 + place_Q[part.before :]

    def repeated(number_B: Tensor) -> Tensor:
        # Not expanded: a kernel reads the numbers one behind the other.
        return number_B if states == 1 else number_B.repeat_interleave(states)

    past = Past(
        pages_BP=part.pages_BP[:, None].expand(-1, states, -1).flatten(0, 1),
        seen_B=repeated(part.seen_B),
        begin_B=repeated(part.begin_B),
        end_B=repeated(part.begin_B + length),
        shift_B=shift_BK.flatten(),
        shortest=0,
        longest=part.pages_BP.shape[1] * PAGE,
        block=part.block,
        length=length,
    )
    return ForwardPlan(
        # Before the suffix a slot's number is its position.
        positions_N=slot_BKQ.flatten(),
        read_R=read_N.flatten(),
        before_R=torch.maximum(read_N - 1, begin_N1).flatten(),
        groups=(Group(rows * states, length, past, part.block),),
        slots_M=stored(part.pages_BP, row_B11, own_BKQ, page=PAGE).flatten(),
    )


def _shifts(part: Blocks) -> Tensor:
    """How far behind its own slots each state's query is kept, [B, K]; the true state's stands where it belongs."""
    _, states, length = part.tokens_BKQ.shape
    if states == 1:
        return torch.zeros_like(part.begin_B)[:, None]
    state_K = torch.arange(states, device=part.begin_B.device)
    shift_BK = (part.copies_B - part.begin_B)[:, None] + (state_K - 1) * length
    return shift_BK * (state_K > 0)
