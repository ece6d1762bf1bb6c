"""The least that a forward must move and compute, counted from shape and plan, and the time that takes on a device.

Counted once each: every matrix of the network, embedded rows, the keys and values that a query reads and
writes, and the logits. Activations, norms, biases and rotary tables are left out: a perfect kernel would keep them on the chip.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from unmask.context.plan import Query
from unmask.models.shape import Shape


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


def matrices(shape: Shape) -> int:
    """Weights in one layer's matrices.

    >>> heads = {"heads": 32, "kv_heads": 32, "head_size": 128, "rotary": 128}
    >>> llada = Shape(width=4096, layers=32, mlp=12288, vocab=126464, theta=1e4, eps=1e-5, **heads)
    >>> 32 * matrices(llada) + 2 * 126464 * 4096  # LLaDA-8B, embedding and head included
    8015314944
    """
    return shape.width * (2 * shape.attended + 2 * shape.remembered + 3 * shape.mlp)


def forward(shape: Shape, queries: Iterable[Query], itemsize: int) -> Cost:
    """One forward over packed queries; `itemsize` is that of weights, keys, values and logits."""
    packed = list(queries)
    tokens = sum(query.states * query.plan.tokens for query in packed)
    predicted = sum(query.states * query.length for query in packed)
    seen = sum(query.states * len(query.plan.positions) for query in packed)
    kept = sum(query.states * query.plan.tokens for query in packed if query.pages)
    pairs = sum(query.states * query.plan.tokens * len(query.plan.positions) for query in packed)
    weights = shape.layers * matrices(shape) + shape.width * shape.vocab
    remembered = 2 * shape.layers * shape.remembered * (seen + kept)
    return Cost(
        bytes=itemsize * (weights + shape.width * tokens + remembered + shape.vocab * predicted),
        flops=2 * shape.layers * (matrices(shape) * tokens + 2 * shape.attended * pairs)
        + 2 * shape.width * shape.vocab * predicted,
    )


def decision(rows: int, length: int, vocabulary: int, itemsize: int) -> Cost:
    """One decision: the logits are read once; operations on them are not counted."""
    return Cost(bytes=itemsize * rows * length * vocabulary)
