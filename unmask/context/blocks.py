"""The plan of block forwards made of numbers that are on the device, so that the host need not know them.

What `plan.assemble` makes of queries that see a whole remembered row and query its block alone. Each query stands for itself: a
row's block, one of its drafts, or the finished block before it. So its shapes depend on nothing but how many queries there
are, and of how many tokens.

Shapes: B queries, Q tokens of a query, P pages of a row.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unmask.context.plan import ForwardPlan, Group, Past
from unmask.context.pool import PAGE


class Blocks(NamedTuple):
    """Queries of one length; the last Q - `before` tokens of each are to be predicted.

    Query b queries its row's slots from `begin[b]` on, sees `seen[b]` slots, and keeps what it queries `shift[b]` slots further
    on (`Past`).

    Attributes:
        block: as in `Past`, where a query is several blocks.
        length_B: how many of its tokens are the row's; what follows is padding and kept at `scratch`. None: all are.
        before_B: the place in the forward of the token before each one's first; None: it has none but that itself.
        scratch: a slot of the pool that no row sees.
    """

    tokens_BQ: Tensor
    before: int
    begin_B: Tensor
    seen_B: Tensor
    shift_B: Tensor
    pages_BP: Tensor
    block: int | None = None
    length_B: Tensor | None = None
    before_B: Tensor | None = None
    scratch: int = 0


def assemble_blocks(blocks: Blocks) -> tuple[Tensor, ForwardPlan]:
    """Pack them into one forward: its tokens, int64 [N], and its plan."""
    rows, length = blocks.tokens_BQ.shape
    device = blocks.tokens_BQ.device
    place_Q = torch.arange(length, device=device)
    slot_BQ = blocks.begin_B[:, None] + place_Q
    own_BQ = slot_BQ + blocks.shift_B[:, None]
    slots_BQ = torch.add(own_BQ % PAGE, blocks.pages_BP.gather(1, own_BQ // PAGE), alpha=PAGE)
    if blocks.length_B is not None:
        slots_BQ = torch.where(place_Q < blocks.length_B[:, None], slots_BQ, blocks.scratch)
    first_B1 = torch.arange(0, rows * length, length, device=device)[:, None]
    read_BQ = first_B1 + place_Q[blocks.before :]
    before_BQ = read_BQ - 1 if blocks.before else torch.maximum(read_BQ - 1, first_B1)
    if blocks.before_B is not None:
        before_BQ = torch.cat((blocks.before_B[:, None], before_BQ[:, 1:]), dim=1)
    past = Past(
        pages_BP=blocks.pages_BP,
        seen_B=blocks.seen_B,
        begin_B=blocks.begin_B,
        end_B=blocks.begin_B + length,
        shift_B=blocks.shift_B,
        shortest=0,
        longest=blocks.pages_BP.shape[1] * PAGE,
        block=blocks.block,
        length=length,
    )
    plan = ForwardPlan(
        positions_N=slot_BQ.flatten(),  # before the suffix a slot's number is its position
        read_R=read_BQ.flatten(),
        before_R=before_BQ.flatten(),
        groups=(Group(rows, length, past, blocks.block),),
        slots_M=slots_BQ.flatten(),
    )
    return blocks.tokens_BQ.flatten(), plan
