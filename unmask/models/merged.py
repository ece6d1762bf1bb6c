"""One product for queries, keys and values, and one for gate and up: fewer and larger matrices for a GPU's kernels.

The step `merge` of models/running.py. The matrices' own weights become views of the merged ones, so that the checkpoint form
stays whole and the peak is one layer's weights more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unmask.models.experts import Experts, MergedExperts
from unmask.models.layers import Fused, MergedSwiGLU, Mixture, Part, Parts, Projections, Separate, SwiGLU
from unmask.models.packed import PLAIN


class Merged(nn.Module):
    """The outputs of several matrices, one behind the other, in one product."""

    def __init__(self, matrices: Sequence[nn.Linear]) -> None:
        """Raises ValueError where some have a bias and others none."""
        super().__init__()
        biases: list[Tensor] = [matrix.bias for matrix in matrices if matrix.bias is not None]
        if len(biases) not in (0, len(matrices)):
            raise ValueError("matrices are merged that all have a bias, or of which none has one")
        sizes = [matrix.out_features for matrix in matrices]
        self.in_features, self.out_features = matrices[0].in_features, sum(sizes)
        weights: list[Tensor] = [matrix.weight for matrix in matrices]
        self.weight = nn.Parameter(torch.cat(weights), requires_grad=False)
        self.bias = nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None
        for name, whole in self.named_parameters():
            for matrix, part in zip(matrices, torch.split(whole, sizes), strict=True):
                setattr(matrix, name, nn.Parameter(part, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., all outputs]."""
        return nn.functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """The step that merges, in every layer whose matrices are a product and nothing else."""

    name: str = "merge"

    def layer(self, parts: Parts) -> Parts:
        """A layer with fewer products; those that cannot be merged stay as they are."""
        return parts._replace(qkv=_qkv(parts.qkv), feed_forward=_feed_forward(parts.feed_forward))

    def head(self, head: Part) -> Part:
        """The output matrix as it is."""
        return head

    def rows(self, count: int) -> int:
        """As many rows as there are tokens."""
        return count


def _qkv(qkv: Projections) -> Projections:
    if isinstance(qkv, Separate) and (matrices := _matrices(qkv)) is not None:
        return Fused(Merged(matrices), matrices[0].out_features // matrices[1].out_features)
    return qkv


def _feed_forward(part: Part) -> Part:
    if isinstance(part, SwiGLU) and (matrices := _matrices((part.gate, part.up))) is not None:
        return MergedSwiGLU(Merged(matrices), part.down)
    if isinstance(part, Mixture):
        shared = None if part.shared is None else _feed_forward(part.shared)
        experts = MergedExperts(part.experts) if isinstance(part.experts, Experts) else part.experts
        return Mixture(part.router, experts, shared)
    return part


def _matrices(parts: Sequence[Part]) -> list[nn.Linear] | None:
    """Parts that are a product and nothing else; None where one is more."""
    found = [part for part in parts if isinstance(part, nn.Linear) and type(part) in PLAIN]
    return found if len(found) == len(parts) else None
