"""Rules that rewrite what has been committed, as LLaDA2.1 does (arXiv 2602.08676). Pure.

Shapes: B rows, L block positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from unmask.decode.memory import Memory, State, Whole, empty
from unmask.decode.proposal import Proposal
from unmask.decode.rule import Look, RulePart, flat
from unmask.decode.settings import Kind, filled_field, number_field, whole_field


class Posts(NamedTuple):
    """How many steps a row's block has had since it was complete, the same at each of its positions [B, L]."""

    steps: Whole

    @classmethod
    def empty(cls, rows: int, length: int, device: torch.device, dtype: torch.dtype) -> "Posts":
        return empty(cls, rows, length, device, dtype)


@dataclass(frozen=True, kw_only=True)
class Edit(RulePart):
    """LLaDA2.1's token-to-token rule: a committed token goes where another one is sure (arXiv 2602.08676).

    It reads the evidence that the other rules of the step read: masks are filled and tokens are rewritten together. What
    was given from the start, such as the prompt, stays. A block is over when it is complete and a step has changed nothing.

    Attributes:
        threshold: the least confidence of the new token, or with `strict` what it must exceed; 0: any other token goes.
        max_post_steps: a complete block takes at most so many further steps.
    """

    where: ClassVar[str] = "edit"
    name: ClassVar[str] = "edit"
    look: ClassVar[Look] = Look(
        label="edit",
        sentence="committed tokens that are rewritten, because another one is sure",
        terminal="red",
        light="#d2362d",
        dark="#ff8a7a",
    )
    edits: ClassVar[bool] = True
    state: ClassVar[type[State] | None] = Posts
    per_row: ClassVar[Mapping[str, Kind]] = {"threshold": "real", "max_post_steps": "whole"}
    threshold: float = number_field(0.0, 1.0, default=0.9, search=(0.0, 1.0))
    max_post_steps: int = whole_field(0, default=16, search=(0, 32))
    strict: bool = filled_field(False)

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        assert isinstance(memory, Posts)
        confidence_BL = proposal.confidence_BL
        sure_BL = confidence_BL > self.threshold if self.strict else confidence_BL >= self.threshold
        goes_on_B1 = (proposal.step_B > 0)[:, None]
        complete_B1 = ~proposal.masked_BL.any(dim=1, keepdim=True)
        steps_BL = memory.steps * goes_on_B1 + complete_B1
        return proposal.editable & sure_BL & (proposal.candidate_BL != proposal.token_BL), Posts(steps=steps_BL)

    def settled(self, memory: Memory) -> Tensor:
        assert isinstance(memory, Posts)
        return memory.steps[:, 0] >= flat(self.max_post_steps)
