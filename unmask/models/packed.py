"""Matrices as a CPU's kernels want them: laid out once by oneDNN, with activation, product and residual in the same pass.

    Packed          one matrix, or several that read the same states joined into one
    PackedSwiGLU    gate, up and down: three passes, none of them over the hidden channels alone

The last of the steps of models/running.py. A packed product gives what the plain one gives but for the order of its sums,
and a row's result does not depend on the other rows. The operators are torch's own (its compiler calls them) and private:
tests/models/test_packed.py fails where their names or arguments change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from unmask.models.layers import Adds, Fused, Mixture, Part, Parts, Projections, Separate, SwiGLU, Tied
from unmask.models.parallel import Colwise, FusedColwise
from unmask.models.release import release

ROWS = 256  # tokens of a forward that the layout is made for; others are as fast within a few percent
PLAIN = (nn.Linear, Colwise, FusedColwise)  # matrices that are a product and nothing else


def packable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether packing pays: on an x86 processor of at least AVX2, in a type that it multiplies itself.

    >>> packable(torch.device("cpu"), torch.float64)
    False
    """
    if not on_x86(device):
        return False
    native: Any = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(native()))


def on_x86(device: torch.device) -> bool:
    """Whether oneDNN is there and has kernels for the device: an x86 processor of at least AVX2."""
    known = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return device.type == "cpu" and known and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def few(count: int) -> int:
    """So many rows that there are few different numbers of them: oneDNN makes a kernel for each, and keeps a thousand.

    A kernel takes about a millisecond and 0.7 MB, for each matrix. There are four numbers from a power of two to the next.

    >>> [few(count) for count in (1, 60, 65, 257, 2000)], len({few(count) for count in range(1, 8193)})
    ([8, 64, 80, 320, 2048], 36)
    """
    step = max(8, 1 << max(0, (count - 1).bit_length() - 3))
    return -(-count // step) * step


class Packed(Adds):
    """A matrix in oneDNN's layout; of several, the outputs lie one behind the other."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        """`biases`: as many as weights, or none."""
        self.weight = _laid_out(weights[0] if len(weights) == 1 else torch.cat(list(weights)))
        self.bias = torch.cat(list(biases)).detach() if biases else None

    @classmethod
    def of(cls, *matrices: nn.Linear) -> "Packed":
        """Of a network's matrices, which give up their own weights."""
        packed = cls([matrix.weight for matrix in matrices], [matrix.bias for matrix in matrices if matrix.bias is not None])
        begin = 0
        for matrix in matrices:
            rows = slice(begin, begin + matrix.out_features)
            release(matrix, partial(packed.plain, rows))
            begin = rows.stop
        return packed

    def plain(self, rows: slice) -> dict[str, Tensor]:
        """Some of the rows as they were, bit by bit."""
        plain = {"weight": self.weight.to_dense()[rows].clone()}
        return plain if self.bias is None else plain | {"bias": self.bias[rows].clone()}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "weight": self.weight.to_dense()}  # a layout cannot be copied or pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "weight": _laid_out(state["weight"])})

    def __call__(self, x: Tensor) -> Tensor:
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return made

    def activated(self, x: Tensor) -> Tensor:
        """The product, and its silu in the same pass."""
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "swish", [], "")
        return made

    def times(self, others: Tensor, x: Tensor) -> Tensor:
        """The product, multiplied by others element by element."""
        made: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, others, self.weight, self.bias, "mul")
        return made

    def onto(self, states: Tensor, x: Tensor) -> Tensor:
        """The product, added to states."""
        made: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, states, self.weight, self.bias, "add")
        return made


def _laid_out(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
    return packed


@dataclass(frozen=True)
class PackedSwiGLU(Adds):
    """A dense feed-forward part in three passes: activation, product and residual are made where the products are."""

    gate: Packed
    up: Packed
    down: Packed

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self.up.times(self.gate.activated(x), x))

    def onto(self, states: Tensor, x: Tensor) -> Tensor:
        """The part's output, added to states."""
        return self.down.onto(states, self.up.times(self.gate.activated(x), x))


@dataclass(frozen=True)
class Pack:
    """The step that packs, in the order in which memory grows least: every matrix is given up before the next is packed."""

    name: str = "pack"

    def layer(self, parts: Parts) -> Parts:
        """A layer with every matrix packed that is a product and nothing else; queries, keys and values are one."""
        return parts._replace(qkv=_qkv(parts), o=_part(parts.o), feed_forward=_part(parts.feed_forward))

    def head(self, head: Part) -> Part:
        """The output matrix; of a tied one a copy, because the embedding is read row by row."""
        return Packed([head.weight], []) if isinstance(head, Tied) else _part(head)

    def rows(self, count: int) -> int:
        """So many rows that there are few different numbers of them."""
        return few(count)


def _qkv(parts: Parts) -> Projections:
    qkv = parts.qkv
    if isinstance(qkv, Separate) and _product(qkv.q) and _product(qkv.k) and _product(qkv.v):
        return Fused(Packed.of(qkv.q, qkv.k, qkv.v), qkv.q.out_features // qkv.k.out_features)
    if isinstance(qkv, Fused):
        return Fused(_part(qkv.qkv), qkv.heads)
    return qkv


def _product(part: Part) -> TypeGuard[nn.Linear]:
    return type(part) in PLAIN


def _part(part: Part) -> Part:
    if _product(part):
        return Packed.of(part)
    if isinstance(part, SwiGLU) and _product(part.gate) and _product(part.up) and _product(part.down):
        return PackedSwiGLU(Packed.of(part.gate), Packed.of(part.up), Packed.of(part.down))
    if isinstance(part, SwiGLU):  # of shared networks `down` sums over the processes
        return SwiGLU(*(_part(matrix) for matrix in part))
    if isinstance(part, Mixture) and part.shared is not None:
        return part._replace(shared=_part(part.shared))
    return part
