"""The learned commit rule: what a model's commit head takes for final. Pure.

What a network knows and its confidence does not say is in its last hidden state.

Shapes: B rows, L block positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from unmask.decode.commit_head import CommitHead
from unmask.decode.memory import Memory
from unmask.decode.proposal import Proposal, Score
from unmask.decode.rule import Commit, Look, Terms, surest
from unmask.decode.rules import SURE
from unmask.decode.settings import Kind, filled_field, number_field
from unmask.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Learned(Commit):
    """Every open position whose prediction is final with a probability >= threshold by the model's head, and the best anyway.

    Attributes:
        threshold: the least probability.
        head: the model's own (`Denoiser.head`).
    """

    name: ClassVar[str] = "learned"
    look: ClassVar[Look] = Look(label="learned", sentence="all that the model's commit head takes for final", **SURE)
    reads_hidden: ClassVar[bool] = True
    per_row: ClassVar[Mapping[str, Kind]] = {"threshold": "real"}
    threshold: float = number_field(0.0, 1.0, default=0.97, search=(0.8, 1.0))
    head: CommitHead | None = filled_field(None)

    def bind(self, terms: Terms) -> Self:
        """The rule with the model's head. Raises ConfigError where the model has none."""
        if terms.head is None:
            raise ConfigError("the rule learned asks a commit head, and the model has none: `unmask train head` makes one")
        return super().bind(terms)

    def evidence(self) -> Score:
        return "negative_entropy"

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        assert self.head is not None, "the rule is not bound"
        final_BL = self.head(proposal)
        return proposal.open_BL & (final_BL >= self.threshold) | surest(proposal, final_BL), memory
