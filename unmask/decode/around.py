"""Rules around a rule: they change where or when it decides, and are otherwise what it is. Pure.

Shapes: B rows, L block positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unmask.decode.memory import Memory, State
from unmask.decode.proposal import Proposal
from unmask.decode.rule import Look, Rule, positions
from unmask.decode.settings import Kind


@dataclass(frozen=True, kw_only=True)
class Around:
    """A rule as it is. A subclass says what it makes of the evidence, or of what the rule takes."""

    per_row: ClassVar[Mapping[str, Kind]] = {}
    rule: Rule

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def look(self) -> Look:
        return self.rule.look

    @property
    def state(self) -> type[State] | None:
        return self.rule.state

    @property
    def edits(self) -> bool:
        return self.rule.edits

    @property
    def moves(self) -> bool:
        return self.rule.moves

    @property
    def reads_hidden(self) -> bool:
        return self.rule.reads_hidden

    @property
    def reads_open(self) -> bool:
        return self.rule.reads_open

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        return self.rule(proposal, memory)

    def settled(self, memory: Memory) -> Tensor | None:
        return self.rule.settled(memory)

    def write(self, proposal: Proposal, taken_BL: Tensor, memory: Memory, mask_id: int) -> tuple[Tensor, Memory]:
        return self.rule.write(proposal, taken_BL, memory, mask_id)


@dataclass(frozen=True, kw_only=True)
class Anchored(Around):
    """The published Dream loops: the step after a refresh takes the block's first position, whatever `rule` would take.

    Where that is fixed text the rule decides.
    """

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        mask_BL, memory = self.rule(proposal, memory)
        anchor_BL = proposal.open_BL & (positions(mask_BL) == 0)
        first_B1 = (proposal.step_B == 0)[:, None] & anchor_BL[:, :1]
        return torch.where(first_B1, anchor_BL, mask_BL), memory


@dataclass(frozen=True, kw_only=True)
class WithinSubBlock(Around):
    """The rule sees no open position but those of the current sub-block, the first that holds a mask.

    Fast-dLLM v2 (arXiv 2509.26328). Sub-blocks of `length` tokens begin with the block.
    """

    per_row: ClassVar[Mapping[str, Kind]] = {"length": "whole"}
    length: int

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        # By what was masked before the step: every rule of the step decides in the same sub-block.
        first_B1 = proposal.masked_BL.to(torch.uint8).argmax(dim=1, keepdim=True)
        place = positions(proposal.open_BL)
        inside_BL = place // self.length == first_B1 // self.length
        return self.rule(proposal._replace(open_BL=proposal.open_BL & inside_BL), memory)
