"""A constraint at a row's window, and what it writes itself: tokens that it leaves no choice for. Pure.

Shapes: K states of a row's window, L positions, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from unmask.decode.constraint import Constraint
from unmask.decode.memory import Memory, State
from unmask.decode.proposal import Proposal, Score
from unmask.decode.rule import Look
from unmask.decode.sampling import Sampling
from unmask.decode.settings import Kind


@dataclass(frozen=True)
class Forced:
    """The last rule of a row with a constraint. It takes nothing of the evidence: the step fills in what is forced."""

    name: ClassVar[str] = "forced"
    look: ClassVar[Look] = Look(
        label="forced",
        sentence="tokens that the grammar leaves no choice for, without a forward",
        terminal="bright_black",
        light="#6b7280",
        dark="#9ca3af",
    )
    state: ClassVar[type[State] | None] = None
    edits: ClassVar[bool] = False
    moves: ClassVar[bool] = False
    reads_hidden: ClassVar[bool] = False
    reads_open: ClassVar[bool] = True
    per_row: ClassVar[Mapping[str, Kind]] = {}

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        return torch.zeros_like(proposal.open_BL), memory

    def settled(self, memory: Memory) -> Tensor | None:
        return None

    def write(self, proposal: Proposal, taken_BL: Tensor, memory: Memory, mask_id: int) -> tuple[Tensor, Memory]:
        raise NotImplementedError


class Placed(NamedTuple):
    """A row's constraint at its window, of which the first `prompt` positions are the prompt's; `behind` is what follows."""

    constraint: Constraint
    prompt: int
    behind: tuple[int, ...]

    @classmethod
    def at(cls, constraint: Constraint, tokens: Sequence[int], start: int, end: int, prompt: int) -> "Placed":
        """In a row of tokens, prompt included, whose window runs from `start` to `end`."""
        return cls(constraint, max(0, prompt - start), tuple(tokens[end:]))

    def narrow(self, logits_KLV: Tensor, proposal: Proposal, sampling: Sampling | None, score: Score) -> Proposal:
        """As the constraint's own."""
        return self.constraint.narrow(logits_KLV, proposal, sampling, score, prompt=self.prompt, behind=self.behind)

    def forced(self, token_KL: Tensor) -> Tensor:
        """As the constraint's own."""
        return self.constraint.forced(token_KL, prompt=self.prompt, behind=self.behind)

    def fill(self, block: list[int], *, mask_id: int, first: bool) -> list[int]:
        """The window with what is forced before any forward; on the host.

        An answer takes at least one: where all of it is forced, its `first` window stays as it is.
        """
        filled: list[int] = self.forced(torch.tensor([block]))[0].tolist()
        if first and mask_id not in filled:
            whole = torch.tensor([[*block, *self.behind]])
            if mask_id not in self.constraint.forced(whole, prompt=self.prompt, behind=())[0]:
                return block
        return filled
