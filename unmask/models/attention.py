"""The one seam through which every model attends: PyTorch's SDPA, and on a GPU a kernel of ours for what is remembered.

Shapes: B rows, Q queries, S keys, H query heads, G key/value heads (H is a multiple of G), D head size, N
packed queries.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from unmask.context.plan import ForwardPlan, Group, Past
from unmask.context.pool import PAGE, KVPool
from unmask.kernels import accelerated
from unmask.kernels.paged import paged_attention
from unmask.kernels.rotary import HeadNorms, rotate_and_write
from unmask.kernels.varlen import packed_attention


def attend(q_BHQD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention: softmax(q k^T / sqrt(D)) v over the keys where `mask`, [B, 1, Q, S] or what expands to it, is True.

    None shows every key to every query. Returns [B, H, Q, D].
    """
    grouped = q_BHQD.shape[1] != k_BGSD.shape[1]
    return scaled_dot_product_attention(q_BHQD, k_BGSD, v_BGSD, attn_mask=mask, enable_gqa=grouped)


def attend_packed(
    q_NHD: Tensor,
    k_NGD: Tensor,
    v_NGD: Tensor,
    cos_NR: Tensor,
    sin_NR: Tensor,
    norms: HeadNorms | None,
    plan: ForwardPlan,
    pool: KVPool | None,
    layer: int,
) -> Tensor:
    """Attention of packed queries, each to its own row, [N, H, D]: first what is remembered is stored."""
    assert pool is not None or not len(plan.slots_M), "a forward that remembers needs a pool"
    keys, values = (None, None) if pool is None else (pool.keys[layer], pool.values[layer])
    q_NHD, k_NGD = rotate_and_write(q_NHD, k_NGD, v_NGD, cos_NR, sin_NR, keys, values, plan.slots_M, norms=norms)
    attended, begin, starts = [], 0, iter(plan.starts)
    for whole, run in itertools.groupby(plan.groups, key=lambda group: group.whole):
        groups = list(run)
        mine = slice(begin, begin + sum(group.queries * group.length for group in groups))
        begin = mine.stop
        q, k, v = (x[mine] for x in (q_NHD, k_NGD, v_NGD))
        if whole:
            attended.append(packed_attention(q, k, v, [(one.queries, one.length) for one in groups], next(starts, None)))
        else:
            attended.append(_attend_groups(q, k, v, groups, pool, layer))
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def _attend_groups(
    q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, groups: Sequence[Group], pool: KVPool | None, layer: int
) -> Tensor:
    """Attention of groups that see what is remembered, or themselves block by block, [N, H, D]."""
    attended, begin = [], 0
    for group in groups:
        mine = slice(begin, begin + group.queries * group.length)
        begin = mine.stop
        q_BHQD, k_BGSD, v_BGSD = (
            torch.unflatten(x[mine], 0, (group.queries, group.length)).transpose(1, 2) for x in (q_NHD, k_NGD, v_NGD)
        )
        if group.past is None:
            assert group.block is not None, "whole sequences attend together"
            mask = block_causal(torch.arange(group.length, device=q_NHD.device), group.block)
            attended_BHQD = attend(q_BHQD, k_BGSD, v_BGSD, mask)
        else:
            assert pool is not None, "a forward that remembers needs a pool"
            attended_BHQD = _attend_past(q_BHQD, group.past, pool, layer)
        attended.append(attended_BHQD.transpose(1, 2).flatten(0, 1))
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def _attend_past(q_BHQD: Tensor, past: Past, pool: KVPool, layer: int) -> Tensor:
    """Attention to what is remembered: where it lies, by a kernel, or to a copy whose places all layers have in common."""
    if not accelerated(q_BHQD):
        return _attend_runs(q_BHQD, past, pool, layer)
    if past.block is not None:
        # A kernel reads no more than each block sees, where a mask would be as large as all of them together.
        rows, heads, length, size = q_BHQD.shape
        q_BNHQD = q_BHQD.reshape(rows, heads, -1, past.block, size).transpose(1, 2)
        attended_BHQD = _attend_past(q_BNHQD.flatten(0, 1), past.apart, pool, layer)
        return attended_BHQD.reshape(rows, -1, heads, past.block, size).transpose(1, 2).reshape(rows, heads, length, size)
    q_BQHD, states = q_BHQD.transpose(1, 2), past.states
    if states > 1:  # all that they have in common is read once
        past, q_BQHD = past.together, torch.unflatten(q_BQHD, 0, (-1, states)).flatten(1, 2)
    numbers = (past.pages_BP, past.seen_B, past.begin_B, past.end_B, past.shift_B)
    attended_BQHD = paged_attention(q_BQHD, pool.keys[layer], pool.values[layer], *numbers, page=PAGE, states=states)
    return torch.unflatten(attended_BQHD, 1, (states, -1)).flatten(0, 1).transpose(1, 2)


def _attend_runs(q_BHQD: Tensor, past: Past, pool: KVPool, layer: int) -> Tensor:
    """Plain attention to what is remembered: where it lies, as far as that is in one piece, else to a copy."""
    if q_BHQD.is_cuda or all(run is None for run in past.runs):
        visible_BQS = past.visible
        return attend(q_BHQD, *pool.read(layer, past.keys), None if visible_BQS is None else visible_BQS[:, None])
    attended, begin = [], 0
    for run in past.runs:
        mine = slice(begin, begin + (1 if run is None else run.queries))
        if run is None:
            keys, values = pool.read(layer, past.keys[mine])
            hidden = past.visible
        else:
            keys, values = pool.view(layer, begin=run.begin, slots=run.seen, rows=run.queries, apart=run.apart)
            hidden = None if past.block is None else past.visible
        mask = None if hidden is None else hidden[mine, None, :, : keys.shape[2]]
        attended.append(attend(q_BHQD[mine], keys, values, mask))
        begin = mine.stop
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def block_causal(positions_Q: Tensor, block: int) -> Tensor:
    """Who sees whom in a block-causal model, [Q, Q]: a query sees the keys of its own block and of all earlier ones.

    >>> block_causal(torch.arange(4), 2).int().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    """
    number_Q = positions_Q // block
    return number_Q[None, :] <= number_Q[:, None]
