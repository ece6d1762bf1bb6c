"""The least that a forward must move and compute, counted from shape and plan, and the time that takes on a device.

Counted once each: every matrix that the forward reads (of a mixture, the experts that its tokens choose), embedded rows, the
keys and values that a query reads and writes, and the logits. Activations, norms, biases and rotary tables are left out: a
perfect kernel would keep them on the chip.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from unmask.context.plan import Query
from unmask.context.policy import RowPlan
from unmask.models.shape import MoE, Shape


@dataclass(frozen=True)
class Cost:
    """Bytes moved and floating-point operations, a multiplication and an addition being two."""

    bytes: int = 0
    flops: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.flops + other.flops)

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.bytes * times, self.flops * times)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the device moves and computes per second at best."""

    bytes: float
    flops: float

    def floor(self, cost: Cost) -> float:
        """The least time in seconds: the longer one of moving and computing.

        >>> Rates(bytes=100.0, flops=10.0).floor(Cost(bytes=200, flops=30))
        3.0
        """
        return max(cost.bytes / self.bytes, cost.flops / self.flops)


def matrices(shape: Shape, experts: float = 0) -> float:
    """Weights in the matrices of all layers; of those layers that have experts, in so many of them.

    >>> heads = {"heads": 32, "kv_heads": 32, "head_size": 128, "rotary": 128}
    >>> llada = Shape(width=4096, layers=32, mlp=12288, vocab=126464, theta=1e4, eps=1e-5, **heads)
    >>> matrices(llada) + 2 * 126464 * 4096  # LLaDA-8B, embedding and head included
    8015314944
    """
    attention = shape.layers * (2 * shape.attended + 2 * shape.remembered)
    if shape.moe is None:
        return shape.width * (attention + shape.layers * 3 * shape.mlp)
    moe, mixed = shape.moe, sum(shape.moe.layers)
    routed = moe.experts + 3 * moe.shared + 3 * moe.mlp * experts  # the router's rows are as many as there are experts
    return shape.width * (attention + (shape.layers - mixed) * 3 * shape.mlp + mixed * routed)


def touched(moe: MoE, tokens: int) -> float:
    """Experts of a layer that a forward of so many tokens reads, if each token's are drawn evenly from all.

    >>> moe = MoE(layers=(True,), experts=256, chosen=8, mlp=512)
    >>> touched(moe, 1), round(touched(moe, 32)), round(touched(moe, 1024))
    (8.0, 163, 256)
    """
    return moe.experts * (1 - (1 - moe.chosen / moe.experts) ** tokens)


def forward(shape: Shape, queries: Iterable[Query], itemsize: int) -> Cost:
    """One forward over packed queries; `itemsize` is that of weights, keys, values and logits."""
    packed = list(queries)
    tokens = sum(query.states * query.plan.tokens for query in packed)
    predicted = sum(query.states * query.length for query in packed)
    seen = sum(query.states * len(query.plan.positions) for query in packed)
    kept = sum(query.states * query.plan.tokens for query in packed if query.pages)
    pairs = sum(query.states * _pairs(query.plan) for query in packed)
    read, used = (0.0, 0) if shape.moe is None else (touched(shape.moe, tokens), shape.moe.chosen)
    weights = matrices(shape, read) + shape.width * shape.vocab
    remembered = 2 * shape.layers * shape.remembered * (seen + kept)
    return Cost(
        bytes=itemsize * round(weights + shape.width * tokens + remembered + shape.vocab * predicted),
        flops=round(2 * matrices(shape, used) * tokens - 2 * _behind_attention(shape) * (tokens - predicted))
        + 4 * shape.layers * shape.attended * pairs
        + 2 * shape.width * shape.vocab * predicted,
    )


def _behind_attention(shape: Shape) -> int:
    """Weights that the last layer multiplies behind its attention, which it does for tokens that are predicted alone."""
    moe = shape.moe
    mixed = moe is not None and moe.layers[-1]
    channels = moe.experts + 3 * moe.shared + 3 * moe.mlp * moe.chosen if moe is not None and mixed else 3 * shape.mlp
    return shape.width * (shape.attended + channels)


def _pairs(plan: RowPlan) -> int:
    """How many pairs of a query and a key attend; under a block-causal mask a block does not see the later ones.

    >>> _pairs(RowPlan(list(range(12)), slice(4, 12))), _pairs(RowPlan(list(range(12)), slice(4, 12), 4))
    (96, 80)
    """
    pairs = plan.tokens * len(plan.positions)
    if plan.block is None:
        return pairs
    blocks = plan.tokens // plan.block
    return pairs - plan.block**2 * blocks * (blocks - 1) // 2


def decision(rows: int, length: int, vocabulary: int, itemsize: int) -> Cost:
    """One decision: the logits are read once; operations on them are not counted."""
    return Cost(bytes=itemsize * rows * length * vocabulary)
