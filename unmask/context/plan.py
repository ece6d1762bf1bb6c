"""What one forward over a batch sees and recomputes, as tensors; the rows' own plans become one here.

Shapes: B rows of this forward, Q query tokens a row, R tokens to predict, S slots of key/value memory, L block length,
K states of the block that are tried at once (1 unless a method drafts).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.context.policy import RowPlan


class ForwardPlan(NamedTuple):
    """One model call over B rows.

    The query tokens stand at `positions` (rotary position ids, gaps allowed). Their fresh keys and values go to `slots`
    of the pool's `rows`. If the forward is `fresh` (recomputes all that it sees), each query attends to the row's own
    queries; else to the first `keys` slots of its row. `visible` narrows either; None shows everything.
    """

    positions_BQ: Tensor  # int64
    read_BR: Tensor  # int64: index into Q of each token to predict
    visible: Tensor | None  # bool [B, S] or [B, Q, S]
    fresh: bool
    slots_BQ: Tensor | None = None  # int64; None: nothing is remembered
    keys: int = 0
    rows_B: Tensor | None = None  # int64: the pool's rows; None: all of them, in order


def assemble(
    rows: Sequence[RowPlan],
    starts: Sequence[int],
    length: int,
    *,
    branches: int = 1,
    slots: int | None = None,
    rows_B: Tensor | None = None,
    device: torch.device,
) -> ForwardPlan:
    """Join row plans of one phase (refreshes, or block forwards) into one forward.

    Args:
        rows: what each row queries and sees; a block right behind a one-token prompt may query everything at any age.
        starts: where each row's block of `length` tokens begins.
        branches: K copies of each row's query, each seeing its own copy of the block and nothing of the others.
        slots: base slots a row of the pool (copies of the query follow them, then the slot of padding); None: no pool.

    A query is the row's own, padded at its end to the longest; branch k's is the k-th stretch of Q tokens.
    """
    lengths = [plan.tokens for plan in rows]
    longest, layout = max(lengths), max(len(plan.positions) for plan in rows)
    positions_BQ = torch.tensor(
        [plan.positions[plan.query] + [0] * (longest - size) for plan, size in zip(rows, lengths, strict=True)], device=device
    )
    # Before the suffix a slot's number is its position, so the block's place in the query is a difference of the two.
    first_B = torch.tensor([start - plan.query.start for start, plan in zip(starts, rows, strict=True)], device=device)
    branch_K = torch.arange(branches, device=device)
    read_BKL = branch_K[:, None] * longest + first_B[:, None, None] + torch.arange(length, device=device)
    plan = ForwardPlan(
        positions_BQ=positions_BQ.repeat(1, branches),
        read_BR=read_BKL.flatten(1),
        visible=None,
        fresh=branches == 1 and all(row.fresh for row in rows),
        rows_B=rows_B,
    )
    ragged = len(set(lengths)) > 1
    inside_BQ = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
    if plan.fresh and ragged:
        plan = plan._replace(visible=inside_BQ)
    if slots is None:
        assert plan.fresh, "a forward that remembers needs a pool"
        return plan

    begin_B1 = torch.tensor([[row.query.start] for row in rows], device=device)
    own_Q = torch.arange(longest, device=device)
    copies_KQ = slots + (branch_K[:, None] - 1) * longest + own_Q
    slots_BKQ = torch.where((branch_K == 0)[:, None], (begin_B1 + own_Q)[:, None, :], copies_KQ)
    trash = slots + (branches - 1) * longest
    plan = plan._replace(slots_BQ=torch.where(inside_BQ[:, None, :], slots_BKQ, trash).flatten(1))
    if plan.fresh:
        return plan

    layouts_B1 = torch.tensor([[len(row.positions)] for row in rows], device=device)
    if branches == 1:
        even = len({len(row.positions) for row in rows}) == 1
        return plan._replace(keys=layout, visible=None if even else torch.arange(layout, device=device) < layouts_B1)
    # Branch 0 lives in the row's own slots; each other one sees those outside the query, and its own copy of the query.
    slot_S = torch.arange(trash, device=device)
    end_B1 = torch.tensor([[row.query.stop] for row in rows], device=device)
    base_BS = slot_S < layouts_B1
    queried_BS = (slot_S >= begin_B1) & (slot_S < end_B1)
    copy_BKS = (slot_S >= copies_KQ[:, :1]) & (slot_S < copies_KQ[:, :1] + (end_B1 - begin_B1)[:, :, None])
    others_BKS = (base_BS & ~queried_BS)[:, None, :] | copy_BKS
    visible_BKS = torch.where((branch_K == 0)[:, None], base_BS[:, None, :], others_BKS)
    return plan._replace(keys=trash, visible=visible_BKS.repeat_interleave(longest, dim=1))
