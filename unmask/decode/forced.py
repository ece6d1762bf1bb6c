"""What a constraint writes itself: tokens that it leaves no choice for. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unmask.decode.memory import Memory, State
from unmask.decode.proposal import Proposal
from unmask.decode.rule import Look
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
