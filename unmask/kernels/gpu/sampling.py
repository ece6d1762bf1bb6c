"""Drawing on a GPU: one program per row, no sort and nothing of the vocabulary's size but the logits.

The row is read again and again, which it is from the second time on from the L2 cache: its largest, the masses, two bits of
each filter's threshold per pass, and at last the token. A threshold is the order of bits of a number in fp32, so it is found
exactly; of equal numbers at the end of top-p the lowest ids are kept, as in the plain form.

Shapes: as in `unmask.kernels.sampling`; R rows of logits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048
NOWHERE = tl.constexpr(2**31 - 1)  # above every token


def draw(
    logits_BLV: Tensor,
    excluded: tuple[int, ...],
    *,
    temperature_B1: Tensor | None = None,
    seed_B1: Tensor | None = None,
    positions_BL: Tensor | None = None,
    top_p_B1: Tensor | None = None,
    top_k_B1: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As in the seam."""
    shape = logits_BLV.shape[:-1]
    logits_RV = logits_BLV.flatten(0, -2)
    assert logits_RV.stride(1) == 1, "the logits of a row must be contiguous"
    rows, vocabulary = logits_RV.shape
    candidate_R = torch.empty(rows, dtype=torch.int64, device=logits_RV.device)
    confidence_R = torch.empty(rows, dtype=torch.float32, device=logits_RV.device)
    hot = temperature_B1 is not None and seed_B1 is not None and positions_BL is not None
    if hot:
        positions_BL = positions_BL.expand(shape).contiguous()  # type: ignore[union-attr]
    numbers = [number if number is None else number.contiguous() for number in (temperature_B1, seed_B1, top_p_B1, top_k_B1)]
    temperature_B, seed_B, top_p_B, top_k_B = (candidate_R if number is None else number for number in numbers)
    with torch.cuda.device_of(logits_RV):
        _draw[rows,](
            logits_RV, temperature_B, seed_B, positions_BL if hot else candidate_R, top_p_B, top_k_B,
            candidate_R, confidence_R, logits_RV.stride(0), vocabulary, shape[-1],
            HOT=hot, TOP_P=hot and top_p_B1 is not None, TOP_K=hot and top_k_B1 is not None, EXCLUDED=excluded,
            LOWEST=next(token for token in range(len(excluded) + 1) if token not in excluded),
            TILE=TILE, num_warps=8, enable_fp_fusion=False,
        )  # fmt: skip
    return candidate_R.view(shape), confidence_R.view(shape)


@triton.jit
def _draw(
    logits_RV, temperature_B, seed_B, positions_R, top_p_B, top_k_B, candidate_R, confidence_R, stride, vocabulary, length,
    HOT: tl.constexpr, TOP_P: tl.constexpr, TOP_K: tl.constexpr, EXCLUDED: tl.constexpr, LOWEST: tl.constexpr,
    TILE: tl.constexpr
):  # fmt: skip
    r = tl.program_id(0)
    row, b = logits_RV + r.to(tl.int64) * stride, r // length
    divisor, hot = 1.0, False
    if HOT:
        temperature = tl.load(temperature_B + b)
        hot = temperature > 0
        divisor = tl.where(hot, temperature, 1.0)

    # The largest of all logits, and of those that may be drawn.
    high_T, best_T = tl.full([TILE], -float("inf"), tl.float32), tl.full([TILE], -float("inf"), tl.float32)
    for start in range(0, vocabulary, TILE):
        x, y, ids = _tile(row, start, vocabulary, divisor, EXCLUDED, TILE)
        high_T, best_T = tl.maximum(high_T, x), tl.maximum(best_T, y)
    high, best = tl.max(high_T, axis=0), tl.max(best_T, axis=0)
    mass_T = tl.zeros([TILE], tl.float32)
    for start in range(0, vocabulary, TILE):
        x, y, ids = _tile(row, start, vocabulary, divisor, EXCLUDED, TILE)
        mass_T += tl.exp(x - high)
    mass = tl.sum(mass_T, axis=0)

    fewest, least, ties = tl.full([], 0, tl.uint32), tl.full([], 0, tl.uint32), tl.full([], 0, tl.int32)
    if TOP_K:
        wanted = tl.maximum(tl.load(top_k_B + b), 1).to(tl.float32)
        fewest = _threshold(row, vocabulary, divisor, best, fewest, wanted, True, EXCLUDED, TILE)
    if TOP_P:
        kept = _above(row, vocabulary, divisor, best, fewest, fewest, False, EXCLUDED, TILE)
        top_p = tl.load(top_p_B + b)
        wanted = tl.where(top_p < 1.0, top_p, float("inf")) * kept  # of 1 all stay, however the sum is rounded
        least = _threshold(row, vocabulary, divisor, best, fewest, wanted, False, EXCLUDED, TILE)
        least = tl.minimum(least, _order(best))  # the most probable token always stays
        before = _above(row, vocabulary, divisor, best, fewest, least + 1, False, EXCLUDED, TILE)
        each = tl.exp(_number(least) - best)
        ties = tl.maximum(tl.ceil((wanted - before) / each), 1.0).to(tl.int32)
        whole = tl.load(top_p_B + b) >= 1.0  # all stay, however the sums are rounded
        least, ties = tl.where(whole, fewest, least), tl.where(whole, NOWHERE, ties)

    word = tl.full([], 0, tl.uint32)
    if HOT:
        seed, position = tl.load(seed_B + b).to(tl.uint32), tl.load(positions_R + r).to(tl.uint32)
        word = _mix(_mix(seed) + position * 0x9E3779B1)
    seen = tl.full([], 0, tl.int32)
    top_T, token_T = tl.full([TILE], -float("inf"), tl.float32), tl.full([TILE], NOWHERE, tl.int32)
    for start in range(0, vocabulary, TILE):
        x, y, ids = _tile(row, start, vocabulary, divisor, EXCLUDED, TILE)
        order = _order(y)
        stays = order >= fewest
        if TOP_P:
            tie = (order == least).to(tl.int32)
            rank = seen + tl.cumsum(tie, axis=0) - tie
            stays = stays & ((order > least) | ((tie > 0) & (rank < ties)))
            seen += tl.sum(tie, axis=0)
        if HOT:
            y = tl.where(hot, tl.where(stays, y + _gumbel(word, ids), -float("inf")), y)
        token_T = tl.where(y > top_T, ids, token_T)
        top_T = tl.maximum(top_T, y)
    top = tl.max(top_T, axis=0)
    candidate = tl.min(tl.where(top_T == top, token_T, NOWHERE), axis=0)
    candidate = tl.where(candidate == NOWHERE, LOWEST, candidate)  # where the logits are no distribution
    chosen = tl.load(row + candidate).to(tl.float32)
    tl.store(candidate_R + r, candidate.to(tl.int64))
    tl.store(confidence_R + r, tl.div_rn(tl.exp(chosen - high), mass))


@triton.jit
def _tile(row, start, vocabulary, divisor, EXCLUDED: tl.constexpr, TILE: tl.constexpr):
    """Logits, what may be drawn of them, tempered, and their ids."""
    ids = start + tl.arange(0, TILE)
    x = tl.load(row + ids, mask=ids < vocabulary, other=-float("inf")).to(tl.float32)
    y = tl.div_rn(x, divisor) + 0.0  # no -0, whose bits are not those of 0
    for place in tl.static_range(len(EXCLUDED)):
        y = tl.where(ids == EXCLUDED[place], -float("inf"), y)
    return x, y, ids


@triton.jit
def _order(y):
    """The bits of a number, so that a larger number has larger ones."""
    bits = y.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) | (-2147483648))).to(tl.uint32, bitcast=True)


@triton.jit
def _number(order):
    """The inverse."""
    bits = order.to(tl.int32, bitcast=True)
    return (bits ^ ((~(bits >> 31)) | (-2147483648))).to(tl.float32, bitcast=True)


@triton.jit
def _weight(y, best, order, fewest, COUNTED: tl.constexpr):
    """What a token adds to the sum that is compared: itself, or its mass; nothing below the first filter."""
    weight = tl.where(y > -float("inf"), 1.0, 0.0) if COUNTED else tl.exp(y - best)
    return tl.where(order >= fewest, weight, 0.0)


@triton.jit
def _above(row, vocabulary, divisor, best, fewest, least, COUNTED: tl.constexpr, EXCLUDED: tl.constexpr, TILE: tl.constexpr):
    """The sum of all from a threshold on."""
    sum_T = tl.zeros([TILE], tl.float32)
    for start in range(0, vocabulary, TILE):
        _x, y, _ids = _tile(row, start, vocabulary, divisor, EXCLUDED, TILE)
        order = _order(y)
        sum_T += tl.where(order >= least, _weight(y, best, order, fewest, COUNTED), 0.0)
    return tl.sum(sum_T, axis=0)


@triton.jit
def _threshold(
    row, vocabulary, divisor, best, fewest, wanted, COUNTED: tl.constexpr, EXCLUDED: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """The largest threshold from which on the sum is at least `wanted`; 0 where the sum of all is less."""
    found, unit = tl.full([], 0, tl.uint32), tl.full([], 1 << 30, tl.uint32)
    for _digit in range(16):  # two bits each
        one, two, three = found + unit, found + 2 * unit, found + 3 * unit
        one_T, two_T, three_T = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32)
        for start in range(0, vocabulary, TILE):
            _x, y, _ids = _tile(row, start, vocabulary, divisor, EXCLUDED, TILE)
            order = _order(y)
            weight = _weight(y, best, order, fewest, COUNTED)
            one_T += tl.where(order >= one, weight, 0.0)
            two_T += tl.where(order >= two, weight, 0.0)
            three_T += tl.where(order >= three, weight, 0.0)
        found = tl.where(tl.sum(one_T, axis=0) >= wanted, one, found)
        found = tl.where(tl.sum(two_T, axis=0) >= wanted, two, found)
        found = tl.where(tl.sum(three_T, axis=0) >= wanted, three, found)
        unit = unit >> 2
    return found


@triton.jit
def _mix(word):
    word = (word ^ (word >> 16)) * 0x85EBCA6B
    word = (word ^ (word >> 13)) * 0xC2B2AE35
    return word ^ (word >> 16)


@triton.jit
def _gumbel(word, ids):
    words = _mix(word + ids.to(tl.uint32) * 0x85EBCA77)
    uniform = tl.div_rn((words >> 9).to(tl.float32) + 0.5, 8388608.0)
    return -tl.log(-tl.log(uniform))
