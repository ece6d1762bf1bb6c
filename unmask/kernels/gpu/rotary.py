"""Rotary on a GPU: one pass over a layer's queries, keys and values, in place, with a copy of the last two in the pool.

A program has a few heads of one token, all queries or all keys or all values; of values it only writes the copy.

Shapes: as in `unmask.kernels.rotary`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 8  # heads of a program


def rotate_and_write(
    q_NHD: Tensor,
    k_NGD: Tensor,
    v_NGD: Tensor,
    cos_NR: Tensor,
    sin_NR: Tensor,
    keys_SGD: Tensor | None,
    values_SGD: Tensor | None,
    slots_M: Tensor,
    *,
    norms: tuple[Tensor, Tensor, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """As in the seam; queries and keys are overwritten and handed back."""
    tokens, heads, size = q_NHD.shape
    groups, channels = k_NGD.shape[1], cos_NR.shape[1]
    remembered = len(slots_M)
    assert q_NHD.stride(2) == k_NGD.stride(2) == v_NGD.stride(2) == cos_NR.stride(1) == sin_NR.stride(1) == 1
    assert cos_NR.stride(0) == sin_NR.stride(0)
    assert slots_M.is_contiguous()
    if keys_SGD is None or values_SGD is None:
        assert not remembered, "what is remembered needs a pool"
        keys_SGD = values_SGD = k_NGD  # of no use
    assert keys_SGD.stride() == values_SGD.stride(), "keys and values lie alike"
    assert keys_SGD.stride(2) == 1, "the channels of a head must be contiguous"
    if not tokens:
        return q_NHD, k_NGD
    q_weight, k_weight, eps = norms or (cos_NR, cos_NR, 0.0)
    tile = min(TILE, triton.next_power_of_2(groups))
    with torch.cuda.device_of(q_NHD):
        _turn[tokens, triton.cdiv(heads, tile) + (2 if remembered else 1) * triton.cdiv(groups, tile)](
            q_NHD, k_NGD, v_NGD, cos_NR, sin_NR, keys_SGD, values_SGD, slots_M, q_weight, k_weight,
            *q_NHD.stride()[:2], *k_NGD.stride()[:2], *v_NGD.stride()[:2], *keys_SGD.stride()[:2], cos_NR.stride(0),
            heads, groups, remembered, eps,
            NORMED=norms is not None, SIZE=size, HALF=channels // 2, TILE=tile,
            WIDTH=triton.next_power_of_2(channels // 2), REST=triton.next_power_of_2(max(1, size - channels)),
            WHOLE=triton.next_power_of_2(size),
            MOST=0.0 if keys_SGD.dtype == k_NGD.dtype else torch.finfo(keys_SGD.dtype).max, num_warps=4 if tile * size >= 512 else 1,
            enable_fp_fusion=False,  # the sums of products are rounded as the plain form's
        )  # fmt: skip
    return q_NHD, k_NGD


@triton.jit(do_not_specialize=["remembered"])
def _turn(
    q_NHD, k_NGD, v_NGD, cos_NR, sin_NR, keys_SGD, values_SGD, slots_M, q_weight, k_weight,
    q_row, q_head, k_row, k_head, v_row, v_head, slot_row, slot_head, table_row,
    heads, groups, remembered, eps,
    NORMED: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr, TILE: tl.constexpr,
    WIDTH: tl.constexpr, REST: tl.constexpr, WHOLE: tl.constexpr, MOST: tl.constexpr
):  # fmt: skip
    token, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    of_queries, of_keys = tl.cdiv(heads, TILE), tl.cdiv(groups, TILE)
    kept = token < remembered
    slot = tl.load(slots_M + token, mask=kept, other=0) * slot_row
    table = token * table_row
    if tile < of_queries:
        head = tile * TILE + tl.arange(0, TILE)
        begin = q_NHD + token * q_row + head * q_head
        _turned(
            begin, begin, head < heads, head < heads, cos_NR + table, sin_NR + table, q_weight, eps,
            False, NORMED, SIZE, HALF, WIDTH, REST, MOST
        )  # fmt: skip
    elif tile < of_queries + of_keys:
        head = (tile - of_queries) * TILE + tl.arange(0, TILE)
        _turned(
            k_NGD + token * k_row + head * k_head, keys_SGD + slot + head * slot_head,
            head < groups, head < tl.where(kept, groups, 0),
            cos_NR + table, sin_NR + table, k_weight, eps, True, NORMED, SIZE, HALF, WIDTH, REST, MOST
        )  # fmt: skip
    elif kept:
        head = (tile - of_queries - of_keys) * TILE + tl.arange(0, TILE)
        d = tl.arange(0, WHOLE)
        there = (head < groups)[:, None] & (d < SIZE)[None, :]
        v = tl.load(v_NGD + token * v_row + head[:, None] * v_head + d[None, :], mask=there, other=0.0)
        _keep(values_SGD + slot + head[:, None] * slot_head + d[None, :], v, there, MOST)


@triton.jit
def _turned(
    begin_H, copy_H, there_H, kept_H, cos_R, sin_R, weight_D, eps,
    COPIED: tl.constexpr, NORMED: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr,
    WIDTH: tl.constexpr, REST: tl.constexpr, MOST: tl.constexpr
):  # fmt: skip
    """Heads at these places, normalised and rotated where they are; where kept, the new ones are copied too."""
    d, r = tl.arange(0, WIDTH)[None, :], 2 * HALF + tl.arange(0, REST)[None, :]
    begin, copy, there = begin_H[:, None], copy_H[:, None], there_H[:, None]
    turned, rest = there & (d < HALF), there & (r < SIZE)
    first = tl.load(begin + d, mask=turned, other=0.0)
    second = tl.load(begin + HALF + d, mask=turned, other=0.0)
    last = tl.load(begin + r, mask=rest, other=0.0)
    if NORMED:
        mass = _mass(first) + _mass(second) + _mass(last)
        scale = tl.rsqrt(mass / SIZE + eps)[:, None]
        first = _normed(first, scale, weight_D + d, d < HALF)
        second = _normed(second, scale, weight_D + HALF + d, d < HALF)
        last = _normed(last, scale, weight_D + r, r < SIZE)
    cos = tl.load(cos_R + d, mask=d < HALF, other=0.0)
    sin = tl.load(sin_R + d, mask=d < HALF, other=0.0)
    x, y = first.to(tl.float32), second.to(tl.float32)
    first, second = (x * cos - y * sin).to(first.dtype), (y * cos + x * sin).to(first.dtype)
    tl.store(begin + d, first, mask=turned)
    tl.store(begin + HALF + d, second, mask=turned)
    if NORMED:
        tl.store(begin + r, last, mask=rest)
    if COPIED:
        kept = kept_H[:, None]
        _keep(copy + d, first, turned & kept, MOST)
        _keep(copy + HALF + d, second, turned & kept, MOST)
        _keep(copy + r, last, rest & kept, MOST)


@triton.jit
def _keep(place, x, mask, MOST: tl.constexpr):
    """Stored in the memory's type: numbers beyond it become its largest."""
    if MOST > 0:
        x = tl.minimum(tl.maximum(x.to(tl.float32), -MOST), MOST)
    tl.store(place, x.to(place.dtype.element_ty), mask=mask)


@triton.jit
def _mass(x_HD):
    precise = x_HD.to(tl.float32)
    return tl.sum(precise * precise, axis=1)


@triton.jit
def _normed(x_HD, scale_H1, weight_1D, inside_1D):
    weight = tl.load(weight_1D, mask=inside_1D, other=0.0).to(tl.float32)
    return ((x_HD.to(tl.float32) * scale_H1).to(x_HD.dtype).to(tl.float32) * weight).to(x_HD.dtype)
