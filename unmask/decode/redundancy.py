"""R2-dLLM's rules (arXiv 2604.18995): they take what the base rule left where neighbours or earlier steps agree. Pure.

Shapes: B rows, L block positions, W windows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from unmask.decode.memory import Memory, State, Streak
from unmask.decode.proposal import Proposal
from unmask.decode.rule import Look, RulePart, positions, same_run
from unmask.decode.settings import Kind, choice_field, number_field, whole_field

Pick = Literal["confidence", "mid", "random"]
Metric = Literal["last", "ave", "max"]


@dataclass(frozen=True, kw_only=True)
class ConfidenceCluster(RulePart):
    """R2-dLLM's spatial rule: a window of `size` positions whose open ones are sure enough on average goes as a whole.

    arXiv 2604.18995, eq. 2, as the published code has it: the mean runs over the open positions of the window, which
    may hold at most `max_unmasked` others (None: any number), and windows do not feed one another.
    Example: confidences .70 .95 .75 with .95 already taken, threshold .7, max_unmasked 1: both others go.
    """

    where: ClassVar[str] = "confidence_cluster"
    name: ClassVar[str] = "confidence_cluster"
    look: ClassVar[Look] = Look(
        label="confidence cluster",
        sentence="a window of positions that are sure enough on average",
        terminal="cyan",
        light="#2f6fed",
        dark="#6ea8ff",
    )
    reads_open: ClassVar[bool] = True
    per_row: ClassVar[Mapping[str, Kind]] = {"threshold": "real", "max_unmasked": "whole"}
    size: int = whole_field(1, search=(2, 8))
    threshold: float = number_field(0.0, 1.0, search=(0.5, 1.0))
    max_unmasked: int | None = whole_field(0, none="value", search=(0, 4))

    def windows(self, proposal: Proposal) -> Tensor:
        """Which windows are sure enough: bool [B, L - size + 1], window a covering the positions a .. a + size - 1."""
        open_BW = proposal.open_BL.to(proposal.confidence_BL.dtype)
        counts_BW = open_BW.unfold(1, self.size, 1).sum(dim=-1)
        sums_BW = (open_BW * proposal.confidence_BL).unfold(1, self.size, 1).sum(dim=-1)
        # A window with nothing open has 0 / 0, and NaN >= threshold is false.
        sure_BW = sums_BW / counts_BW >= self.threshold
        if self.max_unmasked is not None:
            sure_BW = sure_BW & (counts_BW >= self.size - self.max_unmasked)
        return sure_BW

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        open_BL = proposal.open_BL
        if open_BL.shape[1] < self.size:
            return torch.zeros_like(open_BL), memory
        # A position goes if any window over it does.
        edge = self.size - 1
        sure_BW = self.windows(proposal).to(proposal.confidence_BL.dtype)
        covered_BL = max_pool1d(pad(sure_BW, (edge, edge))[:, None], self.size, stride=1)[:, 0]
        return open_BL & (covered_BL > 0), memory


@dataclass(frozen=True, kw_only=True)
class TokenCluster(RulePart):
    """R2-dLLM's token rule: a run of the same prediction commits one position (arXiv 2604.18995, eq. 3).

    A run of at least `min_length` open positions counts if its largest confidence exceeds `threshold`; `pick` says
    which position goes: the most confident, the middle one (start + length // 2) or one drawn by a hash of run and step.
    """

    where: ClassVar[str] = "token_cluster"
    name: ClassVar[str] = "token_cluster"
    look: ClassVar[Look] = Look(
        label="token cluster",
        sentence="one position of a run of equal predictions",
        terminal="magenta",
        light="#c0359f",
        dark="#f07fd8",
    )
    reads_open: ClassVar[bool] = True
    per_row: ClassVar[Mapping[str, Kind]] = {"min_length": "whole", "threshold": "real"}
    min_length: int = whole_field(1, default=2, search=(2, 6))
    threshold: float = number_field(0.0, 1.0, search=(0.3, 1.0))
    pick: Pick = choice_field(*get_args(Pick), default="confidence")

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        same_BLL = same_run(proposal.candidate_BL, proposal.open_BL)
        length_BL = same_BLL.sum(dim=-1)
        confidence_BLL = torch.where(same_BLL, proposal.confidence_BL[:, None, :], -torch.inf)
        peak_BL, best_BL = confidence_BLL.max(dim=-1)
        place = positions(proposal.open_BL)
        if self.pick == "confidence":
            chosen_BL = best_BL
        else:
            start_BL = same_BLL.to(torch.uint8).argmax(dim=-1)
            if self.pick == "mid":
                chosen_BL = start_BL + length_BL // 2
            else:
                mixed_BL = (start_BL + 31 * proposal.step_B[:, None] + proposal.candidate_BL) * 0x9E3779B1
                chosen_BL = start_BL + (mixed_BL >> 7) % length_BL.clamp(min=1)
        runs_BL = (length_BL >= self.min_length) & (peak_BL > self.threshold)
        return proposal.open_BL & runs_BL & (chosen_BL == place), memory


@dataclass(frozen=True, kw_only=True)
class Temporal(RulePart):
    """R2-dLLM's temporal finalisation: a prediction that stays for `steps` steps is committed (arXiv 2604.18995, eq. 4).

    It must also be sure: `metric` of the streak, its last confidence, the average or the largest, >= threshold.
    Positions are watched while the earlier rules leave them open; a block starts with no streak.
    """

    where: ClassVar[str] = "temporal"
    name: ClassVar[str] = "temporal"
    look: ClassVar[Look] = Look(
        label="temporal",
        sentence="predictions that have stayed the same for several steps",
        terminal="yellow",
        light="#d08700",
        dark="#fbbf4a",
    )
    reads_open: ClassVar[bool] = True
    state: ClassVar[type[State] | None] = Streak
    per_row: ClassVar[Mapping[str, Kind]] = {"steps": "whole", "threshold": "real"}
    steps: int = whole_field(1, search=(2, 8))
    threshold: float = number_field(0.0, 1.0, search=(0.3, 1.0))
    metric: Metric = choice_field(*get_args(Metric), default="last")

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        assert isinstance(memory, Streak)
        open_BL, confidence_BL = proposal.open_BL, proposal.confidence_BL
        goes_on_BL = open_BL & (proposal.candidate_BL == memory.token) & (proposal.step_B > 0)[:, None]
        length_BL = memory.length * goes_on_BL + open_BL
        total_BL, peak_BL = memory.total, memory.peak
        value_BL = confidence_BL
        if self.metric == "ave":
            total_BL = total_BL * goes_on_BL + confidence_BL
            value_BL = total_BL / length_BL
        elif self.metric == "max":
            peak_BL = torch.where(goes_on_BL, torch.maximum(peak_BL, confidence_BL), confidence_BL)
            value_BL = peak_BL
        stable_BL = (length_BL >= self.steps) & (value_BL >= self.threshold)  # no streak where nothing is open
        token_BL = torch.where(open_BL, proposal.candidate_BL, -1)
        return stable_BL, Streak(token=token_BL, length=length_BL, total=total_BL, peak=peak_BL)
