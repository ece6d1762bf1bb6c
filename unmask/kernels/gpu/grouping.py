"""The order of experts on a GPU, without a sort, their products where torch has none, and the weighted sum behind them.

Shapes: as in `unmask.kernels.grouping`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PAIRS = 1024  # that are read at a time
TILE = 1024  # channels per program of a sum
OUTPUTS = 128  # per program of a product


def by_expert(experts_NK: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """As in the seam. A program per expert reads all pairs, which are few, and places its own."""
    assert experts_NK.is_contiguous(), "the experts of the tokens must be contiguous"
    token_M = torch.empty(experts_NK.numel(), dtype=torch.int64, device=experts_NK.device)
    place_NK = torch.empty_like(experts_NK)
    end_E = torch.empty(experts, dtype=torch.int32, device=experts_NK.device)
    tile = min(PAIRS, max(16, triton.next_power_of_2(len(token_M))))
    with torch.cuda.device_of(experts_NK):
        _group[experts,](
            experts_NK, token_M, place_NK, end_E, len(token_M),
            CHOSEN=experts_NK.shape[1], TILE=tile, num_warps=max(1, tile // 256), enable_fp_fusion=True,
        )  # fmt: skip
    return token_M, place_NK, end_E


@triton.jit(do_not_specialize=["pairs"])
def _group(expert_M, token_M, place_M, end_E, pairs, CHOSEN: tl.constexpr, TILE: tl.constexpr):
    expert = tl.program_id(0)
    m = tl.arange(0, TILE)
    before, mine = tl.zeros([TILE], tl.int32), tl.zeros([TILE], tl.int32)
    for begin in range(0, pairs, TILE):
        its = tl.load(expert_M + begin + m, mask=begin + m < pairs, other=2**31 - 1)
        before += (its < expert).to(tl.int32)
        mine += (its == expert).to(tl.int32)
    place, count = tl.sum(before), tl.sum(mine)
    tl.store(end_E + expert, place + count)
    if count > 0:  # few tokens leave most experts without any
        for begin in range(0, pairs, TILE):
            here = tl.load(expert_M + begin + m, mask=begin + m < pairs, other=2**31 - 1) == expert
            nth = tl.cumsum(here.to(tl.int32), axis=0)
            tl.store(place_M + begin + m, (place + nth - 1).to(tl.int64), mask=here)
            tl.store(token_M + place + nth - 1, ((begin + m) // CHOSEN).to(tl.int64), mask=here)
            place += tl.sum(here.to(tl.int32))


def grouped_product(x_MC: Tensor, weight_EFC: Tensor, end_E: Tensor) -> Tensor:
    """As in the seam. A program makes some outputs of some rows of one expert, which it finds by the ends."""
    experts, outputs, inputs = weight_EFC.shape
    pairs = len(x_MC)
    assert x_MC.dtype == weight_EFC.dtype, "states and weights are of one type"
    assert x_MC.stride(1) == weight_EFC.stride(2) == 1, "the channels of a row must be contiguous"
    out_MF = torch.empty(pairs, outputs, dtype=x_MC.dtype, device=x_MC.device)
    most = 128 // x_MC.element_size()  # rows of a tile, and channels at a time: more would spill in fp32
    rows = min(most, max(16, triton.next_power_of_2(pairs // experts)))
    if pairs:
        with torch.cuda.device_of(x_MC):
            _product[triton.cdiv(outputs, OUTPUTS), triton.cdiv(pairs, rows) + min(experts, pairs)](
                x_MC, weight_EFC, end_E, out_MF, x_MC.stride(0), *weight_EFC.stride()[:2], experts, outputs, inputs,
                WIDTH=triton.next_power_of_2(experts), ROWS=rows, OUTPUTS=OUTPUTS, INPUTS=most,
                num_warps=4, num_stages=3, enable_fp_fusion=True,
            )  # fmt: skip
    return out_MF


@triton.jit
def _product(
    x_MC, weight_EFC, end_E, out_MF, x_row, weight_expert, weight_row, experts, outputs, inputs,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr
):  # fmt: skip
    tile = tl.program_id(1)
    e = tl.arange(0, WIDTH)
    begin = tl.load(end_E + e - 1, mask=(e > 0) & (e < experts), other=0)
    end = tl.load(end_E + e, mask=e < experts, other=0)
    tiles = tl.where(e < experts, tl.cdiv(end - begin, ROWS), 0)
    behind = tl.cumsum(tiles, axis=0)
    expert = tl.sum((behind <= tile).to(tl.int32))
    if expert >= experts:  # there are fewer tiles than there could be
        return
    mine = e == expert
    m = tl.sum(tl.where(mine, begin + (tile - behind + tiles) * ROWS, 0)) + tl.arange(0, ROWS)
    there = m < tl.sum(tl.where(mine, end, 0))
    f = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    c = tl.arange(0, INPUTS)
    x_at = x_MC + m.to(tl.int64)[:, None] * x_row + c[None, :]
    weight_at = weight_EFC + expert.to(tl.int64) * weight_expert + f[None, :] * weight_row + c[:, None]
    acc = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for first in range(0, inputs, INPUTS):
        x = tl.load(x_at + first, mask=there[:, None] & (first + c < inputs)[None, :], other=0.0)
        weight = tl.load(weight_at + first, mask=(f < outputs)[None, :] & (first + c < inputs)[:, None], other=0.0)
        acc = tl.dot(x, weight, acc, input_precision="tf32x3")
    place = out_MF + m.to(tl.int64)[:, None] * outputs + f[None, :]
    tl.store(place, acc.to(out_MF.dtype.element_ty), mask=there[:, None] & (f < outputs)[None, :])


def weighted_sum(made_MC: Tensor, place_NK: Tensor, weights_NK: Tensor, beside_NC: Tensor | None = None) -> Tensor:
    """As in the seam."""
    (tokens, chosen), channels = place_NK.shape, made_MC.shape[1]
    assert made_MC.stride(1) == 1, "the channels of a row must be contiguous"
    assert place_NK.is_contiguous(), "places must be contiguous"
    assert weights_NK.is_contiguous(), "weights must be contiguous"
    mixed_NC = torch.empty(tokens, channels, dtype=made_MC.dtype, device=made_MC.device)
    added_NC = made_MC if beside_NC is None else beside_NC
    assert added_NC.stride(1) == 1, "the channels of a row must be contiguous"
    assert added_NC.dtype == made_MC.dtype, "what is added is of the type of what the experts made"
    if tokens:
        with torch.cuda.device_of(made_MC):
            _mix[tokens, triton.cdiv(channels, TILE)](
                made_MC, place_NK, weights_NK, added_NC, mixed_NC, made_MC.stride(0), added_NC.stride(0), channels,
                ADDS=beside_NC is not None, CHOSEN=chosen, TILE=TILE, num_warps=4,
                enable_fp_fusion=False,  # products are rounded before they are summed, as in the plain form
            )  # fmt: skip
    return mixed_NC


@triton.jit
def _mix(
    made_MC, place_NK, weights_NK, beside_NC, mixed_NC, made_row, beside_row, channels,
    ADDS: tl.constexpr, CHOSEN: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = c < channels
    mixed = tl.zeros([TILE], tl.float32)
    for k in tl.static_range(CHOSEN):
        place = tl.load(place_NK + token * CHOSEN + k)
        made = tl.load(made_MC + place * made_row + c, mask=inside, other=0.0)
        mixed += made.to(tl.float32) * tl.load(weights_NK + token * CHOSEN + k).to(tl.float32)
    mixed = mixed.to(mixed_NC.dtype.element_ty)
    if ADDS:
        beside = tl.load(beside_NC + token * beside_row + c, mask=inside, other=0.0)
        mixed = (mixed.to(tl.float32) + beside.to(tl.float32)).to(mixed.dtype)
    tl.store(mixed_NC + token * channels + c, mixed, mask=inside)
