"""Products with quantised weights, in the form that decodes: the step "quantise" of models/running.py.

    Int8          int8 x int8 on an x86 processor, through oneDNN: states are taken to 8 bits, with a scale per token
    Int4          int4 x bfloat16 on a processor
    Dequantised   anywhere: the plain matrix is made anew for every product and thrown away, so it saves memory, not time

A row's result does not depend on the other rows: scales are per row, and sums of 8-bit products are exact. The operators are
torch's own (its compiler calls them) and private: tests/models/test_quantised.py fails where they change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from unmask.errors import ModelError
from unmask.models.experts import Experts, mixed
from unmask.models.layers import Fused, MergedSwiGLU, Mixture, Part, Parts, Projections, Separate, SwiGLU
from unmask.models.packed import Packed, few, on_x86, packable
from unmask.models.quantise import GROUP, dequantise, joined, kind, parts_of, rows_of, unstacked
from unmask.models.release import release

ROWS = 512  # of a matrix of int4 that are laid out at a time, whole tiles of the kernel
ELEMENTS = 1 << 20  # of a matrix that are dequantised at a time


class Int8:
    """Weights [outputs, inputs] in oneDNN's layout; states become unsigned bytes around 128, which it multiplies fastest."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        parts = parts_of(weight)
        self.weight: Tensor = torch.ops.onednn.qlinear_prepack(parts["qdata"].contiguous(), None)
        self.scale = parts["scale"].flatten().float()
        self.zero = torch.zeros_like(self.scale, dtype=torch.int32)
        self.bias = bias
        self.most = most()

    def __getstate__(self) -> object:
        raise ModelError("int8 weights in a processor's layout cannot be copied: load the model again")

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        scale = rows.abs().amax(-1, keepdim=True).float().clamp(min=1e-20) / self.most
        bytes_ = (rows / scale).round_().add_(128).to(torch.uint8)
        made: Tensor = torch.ops.onednn.qlinear_pointwise(
            bytes_, 1.0, 128, self.weight, self.scale, self.zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        made = made.mul_(scale).to(x.dtype)
        return torch.unflatten(made if self.bias is None else made + self.bias, 0, x.shape[:-1])


def most() -> int:
    """The largest number that states become: without VNNI, a processor adds two products in 16 bits."""
    vnni: Any = torch.cpu._is_vnni_supported
    return 127 if vnni() else 63


class Int4:
    """Weights as torch's kernel for processors reads them, which takes bfloat16."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        parts = parts_of(weight)
        # The kernel's layout is made of 32-bit numbers, eight times as many bytes: of some rows at a time.
        self.weight = torch.cat([self._laid_out(rows) for rows in torch.split(parts["qdata"], ROWS)])
        self.scale = torch.stack((parts["scale"], parts["zero_point"]), dim=-1).bfloat16()
        self.bias = bias

    @staticmethod
    def _laid_out(qdata: Tensor) -> Tensor:
        q = torch.stack((qdata, qdata >> 4), dim=-1).flatten(-2) + 8
        made: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu((q & 15).int(), 1)
        return made

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2).bfloat16()
        made: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.weight, GROUP, self.scale).to(x.dtype)
        return torch.unflatten(made if self.bias is None else made + self.bias, 0, x.shape[:-1])


class Dequantised:
    """Weights as they are stored: some outputs after the others are made plain."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        outputs, inputs = weight.shape
        step = max(1, ELEMENTS // inputs)
        self.weights = [rows_of(weight, slice(begin, begin + step)) for begin in range(0, outputs, step)]
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        made = torch.cat([self._product(x, dequantise(weight, x.dtype)) for weight in self.weights], dim=-1)
        return made if self.bias is None else made + self.bias

    @staticmethod
    def _product(x: Tensor, plain: Tensor) -> Tensor:
        return Packed([plain], [])(x) if packable(x.device, x.dtype) else linear(x, plain)


def product(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Part:
    """The product with quantised matrices that read the same states, one behind the other; `biases` as many, or none."""
    weight = weights[0] if len(weights) == 1 else joined(weights)
    bias = torch.cat(list(biases)) if biases else None
    named, processor = kind(weight), on_x86(weight.device)
    if named == "int8" and processor:
        return Int8(weight, bias)
    if named == "int4" and processor and len(weight) % 16 == 0:
        return Int4(weight, bias)
    return Dequantised(weight, bias)


def of(*matrices: nn.Linear) -> Part:
    """The product of a network's matrices, which give up their own weights."""
    made = product([matrix.weight for matrix in matrices], [matrix.bias for matrix in matrices if matrix.bias is not None])
    for matrix in matrices:
        release(matrix)
    return made


class ExpertByExpert:
    """Quantised experts on a processor: each that some token has chosen makes its own products."""

    def __init__(self, experts: Experts) -> None:
        stacks = (experts.gate_proj, experts.up_proj, experts.down_proj)
        self.experts = [
            MergedSwiGLU(product([gate, up], []), product([down], []))
            for gate, up, down in zip(*(unstacked(stack) for stack in stacks), strict=True)
        ]
        release(experts)

    def __call__(self, x_NC: Tensor, experts_NK: Tensor, weights_NK: Tensor, beside_NC: Tensor | None = None) -> Tensor:
        mixed_NC = torch.zeros_like(x_NC, dtype=torch.promote_types(x_NC.dtype, torch.float32))
        for number in torch.unique(experts_NK).tolist():
            tokens_M, place_M = (experts_NK == number).nonzero(as_tuple=True)
            made_MC = self.experts[number](x_NC[tokens_M]) * weights_NK[tokens_M, place_M, None]
            mixed_NC.index_add_(0, tokens_M, made_MC.to(mixed_NC.dtype))
        mixed_NC = mixed_NC.to(x_NC.dtype)
        return mixed_NC if beside_NC is None else mixed_NC + beside_NC


class DequantisedExperts:
    """Quantised experts anywhere else: all of a layer are made plain for a forward."""

    def __init__(self, experts: Experts) -> None:
        self.gate_up, self.down = joined((experts.gate_proj, experts.up_proj)), experts.down_proj
        release(experts)

    def __call__(self, x_NC: Tensor, experts_NK: Tensor, weights_NK: Tensor, beside_NC: Tensor | None = None) -> Tensor:
        gate_up, down = dequantise(self.gate_up, x_NC.dtype), dequantise(self.down, x_NC.dtype)
        return mixed(x_NC, (gate_up,), down, experts_NK, weights_NK, beside_NC)


@dataclass(frozen=True)
class Quantise:
    """The step: every quantised matrix becomes the product that its device is fast at, and gives up its stored form."""

    name: str = "quantise"

    def layer(self, parts: Parts) -> Parts:
        """A layer with these products; queries, keys and values are one, gate and up too."""
        return parts._replace(qkv=_qkv(parts.qkv), o=_part(parts.o), feed_forward=_part(parts.feed_forward))

    def head(self, head: Part) -> Part:
        """The output matrix, which keeps its type."""
        return head

    def rows(self, count: int) -> int:
        """So many rows that there are few numbers of them, as for packed matrices."""
        return few(count)


def _qkv(qkv: Projections) -> Projections:
    if isinstance(qkv, Fused):
        return Fused(_part(qkv.qkv), qkv.heads)
    if isinstance(qkv, Separate) and _quantised(qkv.q) and _quantised(qkv.k) and _quantised(qkv.v):
        return Fused(of(qkv.q, qkv.k, qkv.v), qkv.q.out_features // qkv.k.out_features)
    return Separate(*(_part(part) for part in qkv)) if isinstance(qkv, Separate) else qkv


def _quantised(part: Part) -> TypeGuard[nn.Linear]:
    return isinstance(part, nn.Linear) and kind(part.weight) is not None


def _part(part: Part) -> Part:
    if _quantised(part):
        return of(part)
    if isinstance(part, SwiGLU):
        if _quantised(part.gate) and _quantised(part.up):
            return MergedSwiGLU(of(part.gate, part.up), _part(part.down))
        return SwiGLU(*(_part(matrix) for matrix in part))
    if isinstance(part, Mixture):
        shared = None if part.shared is None else _part(part.shared)
        if not isinstance(part.experts, Experts) or kind(part.experts.gate_proj) is None:
            return part._replace(shared=shared)
        form = ExpertByExpert if on_x86(part.experts.gate_proj.device) else DequantisedExperts
        return part._replace(experts=form(part.experts), shared=shared)
    return part
