"""Attention over paged keys and values on a GPU, without copying them: flash-decoding (Dao et al., 2023) for blocks.

The query heads that share a key head form the rows of one tile, so keys and values are loaded once for all of them. A
row's slots are split every SPLIT slots, with one program per split, so that one row of one block fills the GPU; a second
kernel combines the partial outputs. Where the tiles of one row fill it already (`ENOUGH`), as those of a long query do, no
row is split. Both depend on the shape of a query alone: a row's output depends neither on the other rows nor on the number
of their pages.

Shapes: as in `unmask.kernels.paged`; C splits.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLIT = 256  # slots per program; 1,024 slots and LLaDA's 32 heads are 128 programs for 132 multiprocessors
ENOUGH = 96  # programs of one row that keep most multiprocessors busy without a split
JOINED = 16  # splits that are combined at a time, so that any number of them takes as many registers


def paged_attention(
    q_BLHD: Tensor,
    keys_SGD: Tensor,
    values_SGD: Tensor,
    pages_BP: Tensor,
    seen_B: Tensor,
    begin_B: Tensor,
    end_B: Tensor,
    shift_B: Tensor,
    *,
    page: int,
) -> Tensor:
    """As in the seam. The partial outputs take L x H x D x 4 bytes per SPLIT slots of the pages, where there are any."""
    rows, length, heads, size = q_BLHD.shape
    groups, pages = keys_SGD.shape[1], pages_BP.shape[1]
    numbers = (seen_B, begin_B, end_B, shift_B)
    assert all(number_B.is_contiguous() for number_B in numbers), "the numbers of rows must be contiguous"
    assert rows * groups < 2**16, "rows times key heads must be below 2**16, the limit of a launch"
    assert q_BLHD.stride(3) == keys_SGD.stride(2) == values_SGD.stride(2) == pages_BP.stride(1) == 1
    width = max(16, triton.next_power_of_2(size))  # the smallest size that a tensor core multiplies
    packed = length * heads // groups
    # Tile sizes that fit into shared memory and registers: 32 KB of queries, 16 KB of keys. LLaDA: 32 x 64, Dream: 64 x 64.
    bytes_each = width * q_BLHD.element_size()
    block = min(64, 2**15 // bytes_each, max(16, triton.next_power_of_2(packed)))
    keys = min(64, max(16, 2**14 // bytes_each))
    tiles = triton.cdiv(packed, block)
    whole = tiles * groups >= ENOUGH
    cuts = 1 if whole else triton.cdiv(pages * page, SPLIT)
    out_BLHD = torch.empty(rows, length, heads, size, dtype=q_BLHD.dtype, device=q_BLHD.device)
    partial_BLHCD = out_BLHD[:, :, :, None]
    if not whole:
        partial_BLHCD = torch.empty(rows, length, heads, cuts, size, dtype=torch.float32, device=q_BLHD.device)
    logsumexp_BLHC = torch.empty(rows, length, heads, cuts, dtype=torch.float32, device=q_BLHD.device)
    with torch.cuda.device_of(q_BLHD):
        _attend[tiles, cuts, rows * groups](
            q_BLHD, keys_SGD, values_SGD, pages_BP, seen_B, begin_B, end_B, shift_B, partial_BLHCD, logsumexp_BLHC,
            *q_BLHD.stride()[:3], *keys_SGD.stride()[:2], *values_SGD.stride()[:2], pages_BP.stride(0),
            length, groups, math.log2(math.e) / math.sqrt(size),
            SHARED=heads // groups, SIZE=size, PAGE=page, SPLIT=SPLIT, WHOLE=whole, BLOCK=block, KEYS=keys, WIDTH=width,
            # A tile's page numbers are loaded before its keys: with five stages two tiles of keys are in flight.
            num_warps=8 if block == 64 else 4, num_stages=5 if width <= 128 else 4, enable_fp_fusion=True,
        )  # fmt: skip
        if not whole:
            _join[rows * length * heads,](
                partial_BLHCD, logsumexp_BLHC, seen_B, out_BLHD, length * heads, cuts,
                SIZE=size, SPLIT=SPLIT, JOINED=JOINED, WIDTH=width, num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    return out_BLHD


# Arguments that change between launches are not specialised: the first requests would wait for the compiler repeatedly.
@triton.jit(
    do_not_specialize=["page_row", "length"],
    do_not_specialize_on_alignment=["pages_BP", "seen_B", "begin_B", "end_B", "shift_B"],
)
def _attend(
    q_BLHD, keys_SGD, values_SGD, pages_BP, seen_B, begin_B, end_B, shift_B, partial_BLHCD, logsumexp_BLHC,
    q_row, q_place, q_head, key_slot, key_head, value_slot, value_head, page_row, length, groups, scale,
    SHARED: tl.constexpr, SIZE: tl.constexpr, PAGE: tl.constexpr, SPLIT: tl.constexpr, WHOLE: tl.constexpr,
    BLOCK: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    cut, cuts = tl.program_id(1), tl.num_programs(1)
    row, group = (tl.program_id(2) // groups).to(tl.int64), tl.program_id(2) % groups
    first, last = cut * SPLIT, tl.load(seen_B + row).to(tl.int32)
    if not WHOLE:
        if first >= last:
            return
        last = tl.minimum(first + SPLIT, last)
    begin, end, shift = tl.load(begin_B + row), tl.load(end_B + row), tl.load(shift_B + row)

    # Row m of the tile is head m % SHARED of the group at place m // SHARED of the block.
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place, head = m // SHARED, group * SHARED + m % SHARED
    d = tl.arange(0, WIDTH)
    asked = (place < length)[:, None] & (d < SIZE)[None, :]
    q = tl.load(q_BLHD + row * q_row + (place * q_place + head * q_head)[:, None] + d[None, :], mask=asked, other=0.0)

    high = tl.full([BLOCK], -float("inf"), tl.float32)  # largest score so far, in powers of two
    mass = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, WIDTH], tl.float32)
    for start in range(first, last, KEYS):
        slot = start + tl.arange(0, KEYS)
        visible = slot < last
        own = slot + tl.where((slot >= begin) & (slot < end), shift, 0)
        pool = tl.load(pages_BP + row * page_row + own // PAGE, mask=visible, other=0) * PAGE + own % PAGE
        there = visible[:, None] & (d < SIZE)[None, :]
        k = tl.load(keys_SGD + pool[:, None] * key_slot + group * key_head + d[None, :], mask=there, other=0.0)
        v = tl.load(values_SGD + pool[:, None] * value_slot + group * value_head + d[None, :], mask=there, other=0.0)
        k, v = k.to(q.dtype), v.to(q.dtype)  # where they are kept in fp8
        # fp32 as three products of tf32, which is its precision at the speed of tensor cores; bf16 and fp16 as they are.
        score = tl.where(visible[None, :], tl.dot(q, tl.trans(k), input_precision="tf32x3") * scale, -float("inf"))
        higher = tl.maximum(high, tl.max(score, axis=1))
        fade = tl.exp2(high - higher)
        weight = tl.exp2(score - higher[:, None])
        mass = mass * fade + tl.sum(weight, axis=1)
        acc = tl.dot(weight.to(v.dtype), v, acc * fade[:, None], input_precision="tf32x3")
        high = higher

    at = ((row * length + place) * groups * SHARED + head) * cuts + cut
    if WHOLE:
        mass = tl.where(mass == 0.0, 1.0, mass)  # a row that sees nothing gets zeros
    out = (acc / mass[:, None]).to(partial_BLHCD.dtype.element_ty)
    tl.store(partial_BLHCD + at[:, None] * SIZE + d[None, :], out, mask=asked)
    if not WHOLE:
        tl.store(logsumexp_BLHC + at, high + tl.log2(mass), mask=place < length)


@triton.jit(do_not_specialize=["per_row", "cuts"], do_not_specialize_on_alignment=["seen_B"])
def _join(
    partial_BLHCD, logsumexp_BLHC, seen_B, out_BLHD, per_row, cuts,
    SIZE: tl.constexpr, SPLIT: tl.constexpr, JOINED: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, WIDTH)
    used = tl.cdiv(tl.load(seen_B + at // per_row), SPLIT).to(tl.int32)  # the others were never written
    high, mass, acc = -float("inf"), 0.0, tl.zeros([WIDTH], tl.float32)
    for first in range(0, used, JOINED):
        cut = first + tl.arange(0, JOINED)
        logsumexp = tl.load(logsumexp_BLHC + at * cuts + cut, mask=cut < used, other=-float("inf"))
        higher = tl.maximum(high, tl.max(logsumexp, axis=0))
        fade, weight = tl.exp2(high - higher), tl.exp2(logsumexp - higher)
        there = (cut < used)[:, None] & (d < SIZE)[None, :]
        partial = tl.load(partial_BLHCD + (at * cuts + cut)[:, None] * SIZE + d[None, :], mask=there, other=0.0)
        mass = mass * fade + tl.sum(weight, axis=0)
        acc = acc * fade + tl.sum(partial * weight[:, None], axis=0)
        high = higher
    out = acc / tl.where(mass == 0.0, 1.0, mass)  # a row that sees nothing gets zeros
    tl.store(out_BLHD + at * SIZE + d, out.to(out_BLHD.dtype.element_ty), mask=d < SIZE)
