"""The one seam through which every model attends: PyTorch's SDPA, and on a GPU a kernel of ours for what is remembered.

Shapes: B rows, Q queries, S keys, H query heads, G key/value heads (H is a multiple of G), D head size, R rotated
channels of it, N packed queries.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from unmask.context.plan import ForwardPlan, Past
from unmask.context.pool import PAGE, KVPool
from unmask.kernels import accelerated
from unmask.kernels.paged import paged_attention


def attend(q_BHQD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention: softmax(q k^T / sqrt(D)) v over the keys where `mask`, [B, 1, Q, S] or what expands to it, is True.

    None shows every key to every query. Returns [B, H, Q, D].
    """
    grouped = q_BHQD.shape[1] != k_BGSD.shape[1]
    return scaled_dot_product_attention(q_BHQD, k_BGSD, v_BGSD, attn_mask=mask, enable_gqa=grouped)


def attend_packed(q_HND: Tensor, k_GND: Tensor, v_GND: Tensor, plan: ForwardPlan, pool: KVPool | None, layer: int) -> Tensor:
    """Attention of packed queries, each to its own row: first what is remembered is stored, then group by group. [H, N, D]."""
    remembered = len(plan.slots_M)
    if remembered:
        assert pool is not None, "a forward that remembers needs a pool"
        pool.write(layer, k_GND[:, :remembered].transpose(0, 1), v_GND[:, :remembered].transpose(0, 1), plan.slots_M)
    attended, begin = [], 0
    for group in plan.groups:
        mine = slice(begin, begin + group.queries * group.length)
        q_BHQD, k_BGSD, v_BGSD = (
            x[:, mine].reshape(x.shape[0], group.queries, group.length, -1).transpose(0, 1) for x in (q_HND, k_GND, v_GND)
        )
        if group.past is None:
            own = None if group.block is None else block_causal(torch.arange(group.length, device=q_HND.device), group.block)
            attended_BHQD = attend(q_BHQD, k_BGSD, v_BGSD, own)
        else:
            assert pool is not None, "a forward that remembers needs a pool"
            attended_BHQD = _attend_past(q_BHQD, group.past, pool, layer)
        attended.append(attended_BHQD.transpose(0, 1).flatten(1, 2))
        begin = mine.stop
    return attended[0] if len(attended) == 1 else torch.cat(attended, dim=1)


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
    numbers = (past.pages_BP, past.seen_B, past.begin_B, past.end_B, past.shift_B)
    attended_BQHD = paged_attention(q_BHQD.transpose(1, 2), pool.keys[layer], pool.values[layer], *numbers, page=PAGE)
    return attended_BQHD.transpose(1, 2)


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


def rotate(x_BHQD: Tensor, cos_BQR: Tensor, sin_BQR: Tensor) -> Tensor:
    """Rotary position embedding (RoFormer, arXiv 2104.09864, eq. 34) of a head's first R channels, in cos's precision.

    The layout is half-split: channel i turns with channel i + R / 2. Channels from R on are left as they are.
    """
    turned_channels = cos_BQR.shape[-1]
    x = x_BHQD[..., :turned_channels].to(cos_BQR.dtype)
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    rotated = (x * cos_BQR[:, None] + turned.mul_(sin_BQR[:, None])).to(x_BHQD.dtype)
    if turned_channels == x_BHQD.shape[-1]:
        return rotated
    return torch.cat((rotated, x_BHQD[..., turned_channels:]), dim=-1)


def rotary(positions_BQ: Tensor, channels: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables [B, Q, R] for `rotate`, R = `channels`, computed in fp32 or better."""
    precise = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, channels, 2, device=positions_BQ.device, dtype=precise) / channels
    angles = positions_BQ.to(precise)[:, :, None] * theta**-exponents
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()
