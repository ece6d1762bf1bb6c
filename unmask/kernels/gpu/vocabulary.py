"""The vocabulary pass on a GPU: the logits are read once, in their own type, with one program per tile of a row.

A block of 32 positions over 126,464 tokens in bf16 is 8 MB, two microseconds of an H200's bandwidth, but one program per
row would leave 100 of its 132 multiprocessors idle. So a row is split into tiles (992 programs there) of five numbers each,
and a second kernel combines those of a row.

Shapes: as in `unmask.kernels.vocabulary`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # 8 KB of bf16, two loads of 16 bytes per thread; the registers of four programs fit on a multiprocessor
NOWHERE = tl.constexpr(2**31 - 1)  # above every token


def evidence(logits_BLV: Tensor, mask_id: int, score: str = "confidence") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The numbers of the seam's `Evidence`, in its order. Rows may have any stride; the tokens of a row must be contiguous."""
    logits_RV = logits_BLV.flatten(0, -2)
    assert logits_RV.stride(1) == 1, "the logits of a row must be contiguous"
    rows, vocabulary = logits_RV.shape
    tiles = triton.cdiv(vocabulary, TILE)
    candidate_RT = torch.empty(rows, tiles, dtype=torch.int32, device=logits_RV.device)
    parts_4RT = torch.empty(4, rows, tiles, dtype=torch.float32, device=logits_RV.device)
    candidate_R = torch.empty(rows, dtype=torch.int64, device=logits_RV.device)
    numbers_4R = torch.empty(4, rows, dtype=torch.float32, device=logits_RV.device)
    with torch.cuda.device_of(logits_RV):
        _read[rows, tiles](
            logits_RV, candidate_RT, *parts_4RT, logits_RV.stride(0), vocabulary, mask_id,
            TILE=TILE, num_warps=8, enable_fp_fusion=True,
        )  # fmt: skip
        _join[rows,](
            candidate_RT, *parts_4RT, candidate_R, *numbers_4R, mask_id, tiles,
            WIDTH=triton.next_power_of_2(tiles), num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
    shape = logits_BLV.shape[:-1]
    confidence_BL, logsumexp_BL, margin_BL, negative_entropy_BL = (part_R.view(shape) for part_R in numbers_4R)
    scores = {"confidence": confidence_BL, "margin": margin_BL, "negative_entropy": negative_entropy_BL}
    return candidate_R.view(shape), confidence_BL, logsumexp_BL, scores[score]


@triton.jit
def _read(
    logits_RV, candidate_RT, best_RT, rest_RT, mass_RT, moment_RT, stride, vocabulary, mask_id, TILE: tl.constexpr
):  # fmt: skip
    row, tile = tl.program_id(0), tl.program_id(1)
    ids = tile * TILE + tl.arange(0, TILE)
    x = tl.load(logits_RV + row.to(tl.int64) * stride + ids, mask=ids < vocabulary, other=-float("inf")).to(tl.float32)
    others = tl.where(ids == mask_id, -float("inf"), x)
    best = tl.max(others, axis=0)
    candidate = tl.min(tl.where(others == best, ids, NOWHERE), axis=0)
    # The best of the rest, the mask among them (in a tile where nothing else is allowed the "candidate" may be the mask).
    rest = tl.max(tl.where((ids == candidate) & (ids != mask_id), -float("inf"), x), axis=0)
    high = tl.maximum(best, rest)
    distance = x - tl.where(high == -float("inf"), 0.0, high)  # a tile of -inf has mass 0, not NaN
    power = tl.exp(distance)
    at = row.to(tl.int64) * tl.num_programs(1) + tile
    tl.store(candidate_RT + at, candidate)
    tl.store(best_RT + at, best)
    tl.store(rest_RT + at, rest)
    tl.store(mass_RT + at, tl.sum(power, axis=0))
    tl.store(moment_RT + at, tl.sum(tl.where(power == 0.0, 0.0, power * distance), axis=0))


@triton.jit
def _join(
    candidate_RT, best_RT, rest_RT, mass_RT, moment_RT, candidate_R, confidence_R, logsumexp_R, margin_R, negative_entropy_R,
    mask_id, tiles, WIDTH: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0)
    tile = tl.arange(0, WIDTH)
    inside = tile < tiles
    at = row.to(tl.int64) * tiles + tile
    best_T = tl.load(best_RT + at, mask=inside, other=-float("inf"))
    rest_T = tl.load(rest_RT + at, mask=inside, other=-float("inf"))
    mass_T = tl.load(mass_RT + at, mask=inside, other=0.0)
    moment_T = tl.load(moment_RT + at, mask=inside, other=0.0)

    # The two best of all: the highest of a tile, and the next highest of another tile or of the same.
    high_T, low_T = tl.maximum(best_T, rest_T), tl.minimum(best_T, rest_T)
    high = tl.max(high_T, axis=0)
    top = tl.min(tl.where(high_T == high, tile, WIDTH), axis=0)
    second = tl.maximum(tl.max(tl.where(tile == top, -float("inf"), high_T), axis=0), tl.max(low_T, axis=0))

    # Where the row holds NaN or +inf the masses do too; where all is -inf the scales are NaN, and so is the sum.
    gap_T = tl.where(mass_T > 0.0, high_T - high, 0.0)
    scale_T = tl.exp(high_T - high)
    mass = tl.sum(scale_T * mass_T, axis=0)
    moment = tl.sum(scale_T * (moment_T + gap_T * mass_T), axis=0)

    best = tl.max(best_T, axis=0)
    candidate_T = tl.load(candidate_RT + at, mask=inside, other=NOWHERE)
    candidate = tl.min(tl.where(best_T == best, candidate_T, NOWHERE), axis=0)
    confidence = tl.div_rn(tl.exp(best - high), mass)
    lowest = tl.where(mask_id == 0, 1, 0)  # if no candidate has probability, all are equal
    tl.store(candidate_R + row, tl.where(confidence > 0.0, candidate, lowest))
    tl.store(confidence_R + row, confidence)
    tl.store(logsumexp_R + row, high + tl.log(mass))
    tl.store(margin_R + row, tl.div_rn(1.0 - tl.exp(second - high), mass))
    tl.store(negative_entropy_R + row, tl.div_rn(moment, mass) - tl.log(mass))
