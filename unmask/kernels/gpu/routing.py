"""Routing on a GPU: one program per token chooses its experts, where single operators would be about twenty launches.

A score and its id make one whole number, and no two are equal: the largest of them is found as often as there are experts to
choose, and each time replaced by one that is smaller than all.

Shapes: as in `unmask.kernels.routing`; the scores of a token lie as a tile [G, S] of its groups.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

GONE = tl.constexpr(-(2**63))  # less than the number of any score
SPAN = tl.constexpr(2**32)


def route(x_RQC: Tensor, weight_EC: Tensor, bias_E: Tensor | None, rules: Any) -> tuple[Tensor, Tensor]:
    """As in the seam. Products of 16-bit numbers are exact in fp32, in which they are summed."""
    assert x_RQC.dtype == weight_EC.dtype, "states and weight are of one type"
    x_NC, whole = x_RQC.flatten(0, 1), x_RQC.dtype == torch.float32
    logits = x_NC @ weight_EC.t() if whole else torch.mm(x_NC, weight_EC.t(), out_dtype=torch.float32)
    return choose(torch.unflatten(logits, 0, x_RQC.shape[:2]), bias_E, rules)


def choose(logits_RQE: Tensor, bias_E: Tensor | None, rules: Any) -> tuple[Tensor, Tensor]:
    """As in the seam, of logits in fp32."""
    logits_NE = logits_RQE.flatten(0, 1)
    tokens, experts = logits_NE.shape
    assert logits_NE.dtype == torch.float32, "logits are in fp32"
    assert logits_NE.is_contiguous(), "logits must be contiguous"
    assert bias_E is None or bias_E.is_contiguous(), "the bias must be contiguous"
    experts_NK = torch.empty(tokens, rules.chosen, dtype=torch.int64, device=logits_NE.device)
    weights_NK = torch.empty(tokens, rules.chosen, dtype=torch.float32, device=logits_NE.device)
    together = rules.capacity is not None
    groups = 1 if together else rules.groups
    size = triton.cdiv(experts, groups)
    if tokens:
        with torch.cuda.device_of(logits_NE):
            _choose[tokens,](
                logits_NE, logits_NE if bias_E is None else bias_E, experts_NK, weights_NK,
                logits_RQE.shape[1], float(rules.scale),
                SOFTMAX=rules.score == "softmax", BIASED=bias_E is not None, WEIGH_BIASED=rules.weigh_biased,
                NORMALISE=rules.normalise, CHOSEN=rules.chosen, GROUPS=groups, BEST=rules.best_groups,
                CAPACITY=rules.capacity or 0, BLOCK=rules.block if together else 1, EXPERTS=experts, SIZE=size,
                HEIGHT=triton.next_power_of_2(groups), WIDTH=triton.next_power_of_2(size),
                PLACES=triton.next_power_of_2(rules.chosen),
                num_warps=1 if experts <= 256 else 4, enable_fp_fusion=False,
            )  # fmt: skip
    return experts_NK, weights_NK


@triton.jit(do_not_specialize=["length"])
def _choose(
    logits_NE, bias_E, experts_NK, weights_NK, length, scale,
    SOFTMAX: tl.constexpr, BIASED: tl.constexpr, WEIGH_BIASED: tl.constexpr, NORMALISE: tl.constexpr,
    CHOSEN: tl.constexpr, GROUPS: tl.constexpr, BEST: tl.constexpr, CAPACITY: tl.constexpr, BLOCK: tl.constexpr,
    EXPERTS: tl.constexpr, SIZE: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, PLACES: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    g, s = tl.arange(0, HEIGHT)[:, None], tl.arange(0, WIDTH)[None, :]
    inside = (g < GROUPS) & (s < SIZE)
    e = tl.where(inside, g * SIZE + s, EXPERTS)
    score = _score(logits_NE + token * EXPERTS + e, inside, SOFTMAX)
    bias = tl.load(bias_E + e, mask=inside, other=0.0) if BIASED else tl.zeros([HEIGHT, WIDTH], tl.float32)
    biased = score + bias
    eligible = biased
    if CAPACITY:
        first = token - (token % length) % BLOCK
        most = tl.full([HEIGHT, WIDTH], float("-inf"), tl.float32)
        for other in range(first, tl.minimum(first + BLOCK, (token // length + 1) * length)):
            most = tl.maximum(most, _score(logits_NE + other * EXPERTS + e, inside, SOFTMAX) + bias)
        eligible = tl.where(_taken(_ranked(most, e, inside, EXPERTS), CAPACITY), biased, float("-inf"))
    elif GROUPS > 1:
        rank = _ranked(biased, e, inside, EXPERTS)
        one = tl.max(rank, axis=1)
        two = tl.max(tl.where(rank == one[:, None], GONE, rank), axis=1)
        group = tl.arange(0, HEIGHT)
        kept = _taken(_ranked(_number(one) + _number(two), group, group < GROUPS, GROUPS), BEST)
        eligible = tl.where(kept[:, None], biased, float("-inf"))
    rank = _ranked(eligible, e, inside, EXPERTS)
    weight = biased if WEIGH_BIASED else score
    k = tl.arange(0, PLACES)
    ids, weights = tl.zeros([PLACES], tl.int64), tl.zeros([PLACES], tl.float32)
    for place in range(CHOSEN):
        largest = tl.max(tl.max(rank, axis=1), axis=0)
        rank = tl.where(rank == largest, GONE, rank)
        mine = EXPERTS - 1 - (largest & (SPAN - 1))
        ids = tl.where(k == place, mine, ids)
        weights = tl.where(k == place, tl.sum(tl.sum(tl.where(e == mine, weight, 0.0), axis=1), axis=0), weights)
    if NORMALISE:
        weights = tl.div_rn(weights, tl.sum(weights, axis=0) + 1e-20)
    tl.store(experts_NK + token * CHOSEN + k, ids, mask=k < CHOSEN)
    tl.store(weights_NK + token * CHOSEN + k, weights * scale, mask=k < CHOSEN)


@triton.jit
def _score(places, inside, SOFTMAX: tl.constexpr):
    """The scores of one token."""
    if SOFTMAX:
        logits = tl.load(places, mask=inside, other=float("-inf"))
        mass = tl.exp(logits - tl.max(tl.max(logits, axis=1), axis=0))
        return tl.div_rn(mass, tl.zeros_like(mass) + tl.sum(tl.sum(mass, axis=1), axis=0))
    return tl.div_rn(1.0, 1.0 + tl.exp(-tl.load(places, mask=inside, other=0.0)))


@triton.jit
def _ranked(scores, ids, inside, COUNT: tl.constexpr):
    """Whole numbers in the order of the scores, the lowest id first among equals."""
    bits = scores.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(inside, ordered.to(tl.int64) * SPAN + (COUNT - 1 - ids), GONE)


@triton.jit
def _number(rank):
    """The score of such a number."""
    ordered = (rank >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _taken(rank, COUNT: tl.constexpr):
    """Which are the first ones; what is no score may be among them."""
    for _ in range(COUNT):
        largest = tl.max(rank)
        rank = tl.where(rank == largest, GONE, rank)
    return rank == GONE
