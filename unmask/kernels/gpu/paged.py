"""Attention over paged keys and values on a GPU, without copying them: flash-decoding (Dao et al., 2023) for blocks.

The query heads that share a key head form the rows of one tile, so keys and values are loaded once for all of them. A row's
slots are cut into at most `cuts` parts of equal length; every part is attended to by itself, and the parts are joined one
after the other. Few rows take one program per part, which fills the card, and a second kernel joins; where there are more
(`ENOUGH`), one program takes a tile's parts in turn and joins them as it goes, by the same operations in the same order. So a
row's numbers depend on its own shape and slots alone, neither on the other rows nor on the length of the table of pages.

Shapes: as in `unmask.kernels.paged`; C parts.
"""

import functools
import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

FULL = 256  # programs that a row is cut into at most: about two for each of an H100's 132 multiprocessors
MOST = 32  # parts of a row, whatever its shape
ENOUGH = 96  # programs that keep most multiprocessors busy without a cut
WARPGROUPS = (9, 10)  # capabilities, major, on which four warps multiply as one


class Tiling(NamedTuple):
    """How a query's tiles are laid out; by its shape alone.

    Attributes:
        width: channels, padded to what a tensor core multiplies.
        block: rows of a tile, heads that share a key head times places.
        keys: slots that are loaded at a time.
        stages: of the pipeline that loads them.
        tiles: of one key head.
        cuts: parts of a row's slots at most.
    """

    width: int
    block: int
    keys: int
    stages: int
    tiles: int
    cuts: int

    @classmethod
    def of(cls, packed: int, groups: int, size: int, itemsize: int, kept: int) -> "Tiling":
        """Of so many rows per key head; queries and keys of so many bytes per number.

        As measured on an H100 (docs/gpu.md): short tiles stream 128 keys at a time, taller ones 64 with one more in flight.

        >>> Tiling.of(32, 32, 128, 2, 2)  # LLaDA-8B, a block of 32
        Tiling(width=128, block=32, keys=128, stages=2, tiles=1, cuts=8)
        >>> Tiling.of(33 * 7, 4, 128, 2, 2)  # Dream-7B
        Tiling(width=128, block=64, keys=64, stages=3, tiles=4, cuts=16)
        """
        width = max(16, triton.next_power_of_2(size))
        channels = width * itemsize  # bytes of a query or a key
        # Registers hold no taller tile of float32, nor of wider heads.
        block = min(128 // itemsize, 2**14 // channels, max(16, triton.next_power_of_2(packed)))
        short = block <= 32
        most, loaded = (128, 2**15) if short and itemsize == kept == 2 else (64, 2**14)
        keys = min(most, max(16, loaded // channels))
        tiles = triton.cdiv(packed, block)
        cuts = min(MOST, triton.next_power_of_2(max(1, FULL // (tiles * groups))))
        return cls(width, block, keys, 2 if short else 3, tiles, 1 if tiles * groups >= ENOUGH else cuts)

    def warps(self, dtype: torch.dtype, states: int) -> int:
        """Of a program. Four multiply 64 rows of 16 bits at once on Hopper; where registers are short, eight share them."""
        return 4 if self.block <= 32 or (dtype.itemsize == 2 and states == 1 and _card() // 10 in WARPGROUPS) else 8


def _card() -> int:
    """The compute capability that is compiled for, times ten; 0 where there is no card, as in the interpreter."""
    try:
        return _capability(triton.runtime.driver.active)
    except RuntimeError:
        return 0


@functools.cache
def _capability(driver: Any) -> int:
    return int(driver.get_current_target().arch)


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
    states: int = 1,
) -> Tensor:
    """As in the seam. The partial outputs of few rows take L x H x C x D x 4 bytes each."""
    rows, length, heads, size = q_BLHD.shape
    groups = keys_SGD.shape[1]
    numbers = (seen_B, begin_B, end_B, shift_B)
    assert all(number_B.is_contiguous() for number_B in numbers), "the numbers of rows must be contiguous"
    assert q_BLHD.stride(3) == keys_SGD.stride(2) == values_SGD.stride(2) == pages_BP.stride(1) == 1
    tiling = Tiling.of(length * heads // groups, groups, size, q_BLHD.element_size(), keys_SGD.element_size())
    tiles = rows * groups * tiling.tiles
    whole = tiling.cuts == 1 or tiles >= ENOUGH
    cuts = 1 if whole else tiling.cuts
    out_BLHD = torch.empty(rows, length, heads, size, dtype=q_BLHD.dtype, device=q_BLHD.device)
    partial_BLHCD, logsumexp_BLHC = out_BLHD[:, :, :, None], out_BLHD  # of no use where one program has all parts
    if not whole:
        partial_BLHCD = torch.empty(rows, length, heads, cuts, size, dtype=torch.float32, device=q_BLHD.device)
        logsumexp_BLHC = torch.empty(rows, length, heads, cuts, dtype=torch.float32, device=q_BLHD.device)
    with torch.cuda.device_of(q_BLHD):
        _attend[tiles, cuts](
            q_BLHD, keys_SGD, values_SGD, pages_BP, seen_B, begin_B, end_B, shift_B, partial_BLHCD, logsumexp_BLHC,
            *q_BLHD.stride()[:3], *keys_SGD.stride()[:2], *values_SGD.stride()[:2], pages_BP.stride(0),
            length, length // states, groups, tiling.tiles, math.log2(math.e) / math.sqrt(size),
            SHARED=heads // groups, SIZE=size, PAGE=page, CUTS=tiling.cuts, WHOLE=whole, STATES=states,
            WIDE=max(keys_SGD.nbytes, values_SGD.nbytes) >= 2**31,  # registers are short: small places are small numbers
            BLOCK=tiling.block, KEYS=tiling.keys, WIDTH=tiling.width,
            num_warps=tiling.warps(q_BLHD.dtype, states), num_stages=tiling.stages, enable_fp_fusion=True,
        )  # fmt: skip
        if not whole:
            _join[rows * length * heads,](
                partial_BLHCD, logsumexp_BLHC, seen_B, begin_B, end_B, out_BLHD, length * heads,
                STATES=states, SIZE=size, CUTS=cuts, KEYS=tiling.keys, WIDTH=tiling.width,
                num_warps=1, enable_fp_fusion=True,
            )  # fmt: skip
    return out_BLHD


# Arguments that change between launches are not specialised: the first requests would wait for the compiler repeatedly.
@triton.jit(
    do_not_specialize=["page_row", "length"],
    do_not_specialize_on_alignment=["pages_BP", "seen_B", "begin_B", "end_B", "shift_B"],
)
def _attend(
    q_BLHD, keys_SGD, values_SGD, pages_BP, seen_B, begin_B, end_B, shift_B, partial_BLHCD, logsumexp_BLHC,
    q_row, q_place, q_head, key_slot, key_head, value_slot, value_head, page_row, length, of_state, groups, tiles, scale,
    SHARED: tl.constexpr, SIZE: tl.constexpr, PAGE: tl.constexpr, CUTS: tl.constexpr, WHOLE: tl.constexpr,
    STATES: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    tile, cut, cuts = tl.program_id(0) % tiles, tl.program_id(1), tl.num_programs(1)
    row, group = (tl.program_id(0) // tiles // groups).to(tl.int64), tl.program_id(0) // tiles % groups
    begin, end = tl.load(begin_B + row).to(tl.int32), tl.load(end_B + row).to(tl.int32)
    shift, seen = tl.load(shift_B + row).to(tl.int32), tl.load(seen_B + row).to(tl.int32)
    # Of several states the copies of all but the first are slots behind those that all see: they are read once for all.
    last = seen + (STATES - 1) * (end - begin).to(tl.int32)
    part = _part(last, CUTS, KEYS)
    first = 0
    if not WHOLE:
        first = cut * part
        if first >= last:
            return
        last = tl.minimum(first + part, last)

    # Row m of the tile is head m % SHARED of the group at place m // SHARED of the block.
    m = tile * BLOCK + tl.arange(0, BLOCK)
    place, head = m // SHARED, group * SHARED + m % SHARED
    d = tl.arange(0, WIDTH)
    asked = (place < length)[:, None] & (d < SIZE)[None, :]
    q = tl.load(q_BLHD + row * q_row + (place * q_place + head * q_head)[:, None] + d[None, :], mask=asked, other=0.0)

    high = tl.full([BLOCK], -float("inf"), tl.float32)  # largest score so far, in powers of two
    mass = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, WIDTH], tl.float32)
    joined_high, joined_mass, joined = high, mass, acc
    for start in range(first, last, KEYS):
        slot = start + tl.arange(0, KEYS)
        visible = slot < last
        if STATES == 1:
            own = slot + tl.where((slot >= begin) & (slot < end), shift, 0)
        else:
            own = tl.where(slot < seen, slot, slot - seen + begin + shift)
        pool = tl.load(pages_BP + row * page_row + own // PAGE, mask=visible, other=0).to(tl.int32) * PAGE + own % PAGE
        if WIDE:
            pool = pool.to(tl.int64)
        there = visible[:, None] & (d < SIZE)[None, :]
        k = tl.load(keys_SGD + pool[:, None] * key_slot + group * key_head + d[None, :], mask=there, other=0.0)
        v = tl.load(values_SGD + pool[:, None] * value_slot + group * value_head + d[None, :], mask=there, other=0.0)
        k, v = k.to(q.dtype), v.to(q.dtype)  # where they are kept in fp8
        # fp32 as three products of tf32, which is its precision at the speed of tensor cores; bf16 and fp16 as they are.
        score = tl.where(visible[None, :], tl.dot(q, tl.trans(k), input_precision="tf32x3") * scale, -float("inf"))
        if STATES > 1:
            copied = 1 + (slot - seen) // tl.maximum(end - begin, 1)
            state = tl.where(slot >= seen, copied, tl.where((slot >= begin) & (slot < end), 0, -1))
            hidden = (state[None, :] >= 0) & (state[None, :] != (place // of_state)[:, None])
            score = tl.where(hidden, -float("inf"), score)
        higher = tl.maximum(high, tl.max(score, axis=1))
        level = higher
        if STATES > 1:
            level = tl.where(higher == -float("inf"), 0.0, higher)  # nothing seen so far
        fade = tl.exp2(high - level)
        weight = tl.exp2(score - level[:, None])
        mass = mass * fade + tl.sum(weight, axis=1)
        acc = tl.dot(weight.to(v.dtype), v, acc * fade[:, None], input_precision="tf32x3")
        high = higher
        if WHOLE and CUTS > 1:
            behind = start + KEYS
            if (behind % part == 0) | (behind >= last):
                joined_high, joined_mass, joined = _with(joined_high, joined_mass, joined, *_parted(high, mass, acc))
                high = tl.full([BLOCK], -float("inf"), tl.float32)
                mass = tl.zeros([BLOCK], tl.float32)
                acc = tl.zeros([BLOCK, WIDTH], tl.float32)

    at = ((row * length + place) * groups * SHARED + head) * cuts + cut
    if WHOLE and CUTS > 1:
        mass, acc = joined_mass, joined
    logsumexp, out = _parted(high, mass, acc)
    tl.store(partial_BLHCD + at[:, None] * SIZE + d[None, :], out.to(partial_BLHCD.dtype.element_ty), mask=asked)
    if not WHOLE:
        tl.store(logsumexp_BLHC + at, logsumexp, mask=place < length)


@triton.jit(do_not_specialize=["per_row"], do_not_specialize_on_alignment=["seen_B", "begin_B", "end_B"])
def _join(
    partial_BLHCD, logsumexp_BLHC, seen_B, begin_B, end_B, out_BLHD, per_row,
    STATES: tl.constexpr, SIZE: tl.constexpr, CUTS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, WIDTH)
    row = at // per_row
    slots = (tl.load(seen_B + row) + (STATES - 1) * (tl.load(end_B + row) - tl.load(begin_B + row))).to(tl.int32)
    used = tl.cdiv(slots, tl.maximum(_part(slots, CUTS, KEYS), 1))  # the others were never written
    high = tl.full([1], -float("inf"), tl.float32)
    mass = tl.zeros([1], tl.float32)
    joined = tl.zeros([1, WIDTH], tl.float32)
    one = tl.arange(0, 1)
    for cut in range(0, used):
        logsumexp = tl.load(logsumexp_BLHC + at * CUTS + cut + one)
        partial = tl.load(partial_BLHCD + ((at * CUTS + cut) * SIZE + one)[:, None] + d[None, :], mask=(d < SIZE)[None, :])
        high, mass, joined = _with(high, mass, joined, logsumexp, partial)
    _, out = _parted(high, mass, joined)
    tl.store(out_BLHD + (at * SIZE + one)[:, None] + d[None, :], out.to(out_BLHD.dtype.element_ty), mask=(d < SIZE)[None, :])


@triton.jit
def _part(slots, CUTS: tl.constexpr, KEYS: tl.constexpr):
    """Slots of a part: whole tiles of keys, as few as at most CUTS parts allow."""
    return tl.cdiv(tl.cdiv(slots, CUTS), KEYS) * KEYS


@triton.jit
def _parted(high, mass, acc):
    """Of a part, or of all of them joined: the logarithm of its mass, and its output; zeros where nothing was seen."""
    there = tl.where(mass == 0.0, 1.0, mass)
    return high + tl.log2(mass), acc / there[:, None]


@triton.jit
def _with(high, mass, joined, logsumexp, partial):
    """One more part joined. Every operation is named, so that both kernels round alike."""
    higher = tl.maximum(high, logsumexp)
    level = tl.where(higher == -float("inf"), 0.0, higher)  # parts that hold other states' copies alone
    fade, weight = tl.exp2(high - level), tl.exp2(logsumexp - level)
    weight_like = tl.broadcast_to(weight[:, None], partial.shape)
    return higher, tl.fma(mass, fade, weight), tl.fma(partial, weight_like, joined * fade[:, None])
