"""EB-Sampler (arXiv 2505.24857): as many of the surest tokens as an entropy bound allows.

    unmask.method("eb-sampler")                      # gamma 0.1 nats, dual cache
    unmask.method("eb-sampler", gamma=0.001)         # nearly as vanilla decodes
    unmask.method("eb-sampler", cache="none")        # as in the paper, which caches nothing

Written from the paper's criterion; no code of its authors is at hand, so there is no -official twin. A re-implementation
takes the running maximum over the batch instead of over the sorted positions; here a row depends on itself alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unmask.decode.memory import Memory
from unmask.decode.proposal import Proposal, Score
from unmask.decode.rule import Commit, Look, ranks
from unmask.decode.settings import Kind, number_field
from unmask.methods.method import Method
from unmask.methods.parts import StopAtEos


@dataclass(frozen=True, kw_only=True)
class EntropyBound(Commit):
    """The n surest positions, n the largest whose entropies but the largest sum to at most `gamma` nats: at least 1.

    What that sum bounds is how far their joint distribution may be from the product that they are drawn from (section 4).
    """

    name: ClassVar[str] = "entropy_bound"
    look: ClassVar[Look] = Look(
        label="entropy bound",
        sentence="as many of the surest as their entropies allow",
        terminal="green",
        light="#0b9a6d",
        dark="#34d399",
    )
    reads_open: ClassVar[bool] = True
    per_row: ClassVar[Mapping[str, Kind]] = {"gamma": "real"}
    gamma: float = number_field(0.0, 1000.0, default=0.1, search=(0.001, 2.0))

    def evidence(self) -> Score:
        return "negative_entropy"

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        open_BL = proposal.open_BL
        rank_BL = ranks(proposal.confidence_BL, open_BL)
        entropy_BL = torch.where(open_BL, proposal.entropy, 0.0)
        sorted_BL = torch.zeros_like(entropy_BL).scatter(1, rank_BL, entropy_BL)
        bound_BL = sorted_BL.cumsum(dim=1) - sorted_BL.cummax(dim=1).values  # never falls along a row
        count_B = (bound_BL <= self.gamma).sum(dim=1)
        return open_BL & (rank_BL < count_B[:, None]), memory


def eb_sampler() -> Method:
    """Commit the surest positions up to an entropy bound of `gamma` nats."""
    return Method(name="eb-sampler", cache="dual", commit=EntropyBound(), stop_at_eos=StopAtEos())
