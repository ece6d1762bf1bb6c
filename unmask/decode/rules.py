"""The base rules that several methods share: evidence in, a mask out; at least one commit per row. Pure.

A rule that belongs to one method stands in that method's file, or in a file of its own. See rule.py for what a rule is.

Shapes: B rows, L block positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self, get_args

import torch
from torch import Tensor

from unmask.decode.memory import Memory
from unmask.decode.proposal import Proposal, Score
from unmask.decode.rule import Commit, Look, Terms, fillable, flat, positions, ranks, surest
from unmask.decode.schedule import timestep_share, timestep_table
from unmask.decode.settings import Kind, Range, choice_field, filled_field, number_field, whole_field
from unmask.errors import ConfigError

# Rules that stand in for each other share their colours: no method has both.
COUNTED = {"terminal": "white", "light": "#6b50cf", "dark": "#a996ff"}
SURE = {"terminal": "green", "light": "#0b9a6d", "dark": "#34d399"}


@dataclass(frozen=True, kw_only=True)
class Counted(Commit):
    """A base rule that takes a fixed number of steps.

    Attributes:
        steps: for the whole answer, on a block-causal model and of a rule that is bound for one block; None: one per token.
    """

    per_row: ClassVar[Mapping[str, Kind]] = {"steps": "whole"}
    steps: int | None = whole_field(1, default=None, none="unset", search=(1, 4096))
    on_grid: bool = filled_field(False)

    @property
    def counted(self) -> bool:
        return True

    def bind(self, terms: Terms) -> Self:
        """The rule for one block. Raises ConfigError where the steps do not come out even."""
        bound, length = super().bind(terms), terms.block_length
        # On a grid an answer may end inside a block, so that only a block has a number of steps.
        return replace(bound, steps=self.steps_per_block(length if terms.on_grid else terms.answer_length, length))

    def share(self, proposal: Proposal) -> Tensor:
        """Positions that this step takes [B]: as even as can be, the surplus first. 16 in 5 steps are 4, 3, 3, 3, 3."""
        length = proposal.open_BL.shape[1]
        steps = length if self.steps is None else flat(self.steps)
        if self.on_grid:  # the published loops count the prompt's end in a block too
            return (proposal.step_B < length % steps) + length // steps
        open_B = fillable(proposal)
        return ((proposal.step_B < open_B % steps) + open_B // steps).clamp(min=1)

    def steps_per_block(self, answer_length: int, block_length: int) -> int:
        """Steps of one block. Raises ConfigError where they do not come out even."""
        steps, blocks = self.steps or answer_length, answer_length // block_length
        if steps > answer_length:
            raise ConfigError(
                f"{steps} steps for {answer_length} tokens: some would write nothing, use at most {answer_length}"
            )
        if steps % blocks:
            raise ConfigError(f"steps {steps} is not a multiple of the {blocks} blocks: use {-(-steps // blocks) * blocks}")
        return steps // blocks

    def searched(self, answer_length: int, block_length: int) -> dict[str, tuple[float, Range]]:
        """The number of steps, in whole steps per block. Raises ConfigError as `steps_per_block` does."""
        self.steps_per_block(answer_length, block_length)
        blocks = answer_length // block_length
        steps = (self.steps or answer_length, Range(blocks, answer_length, blocks))
        return super().searched(answer_length, block_length) | {"steps": steps}


@dataclass(frozen=True, kw_only=True)
class Quota(Counted):
    """LLaDA's rule: the same number of positions at every step, the best first (arXiv 2502.09992)."""

    name: ClassVar[str] = "quota"
    look: ClassVar[Look] = Look(label="quota", sentence="the same number of tokens at every step, the surest", **COUNTED)
    reads_open: ClassVar[bool] = True

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        rank_BL = ranks(proposal.score_BL, proposal.open_BL)
        return proposal.open_BL & (rank_BL < self.share(proposal)[:, None]), memory


@dataclass(frozen=True, kw_only=True)
class Leftmost(Counted):
    """SDAR's sequential rule: the same number of positions at every step, from the left (arXiv 2510.06303)."""

    name: ClassVar[str] = "leftmost"
    look: ClassVar[Look] = Look(label="leftmost", sentence="the same number of tokens at every step, from the left", **COUNTED)
    reads_open: ClassVar[bool] = True

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        open_BL = proposal.open_BL
        return open_BL & (open_BL.cumsum(dim=1) <= self.share(proposal)[:, None]), memory


@dataclass(frozen=True, kw_only=True)
class All(Commit):
    """Every open position at once: a block is one step, as SDAR's dynamic rule decodes where top-k leaves one token."""

    name: ClassVar[str] = "all"
    look: ClassVar[Look] = Look(label="all", sentence="a whole block at one step", **COUNTED)
    reads_open: ClassVar[bool] = True

    @property
    def counted(self) -> bool:
        return True

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        return proposal.open_BL, memory


@dataclass(frozen=True, kw_only=True)
class QuotaOrThreshold(Counted):
    """SDAR's dynamic rule, and LLaDA2's: all that are sure if that fills the step's quota, else the quota, the best first.

    arXiv 2510.06303 and 2512.15745. With one position per step it is `Threshold`.

    Attributes:
        threshold: the least confidence, or with `strict` what a confidence must exceed.
        minimal_topk: LLaDA2's cut: a block takes at most answer length // minimal_topk steps. None: no cut.
    """

    name: ClassVar[str] = "quota_or_threshold"
    look: ClassVar[Look] = Look(
        label="quota or threshold", sentence="all that are at least this sure, but no fewer than a quota", **SURE
    )
    reads_open: ClassVar[bool] = True
    per_row: ClassVar[Mapping[str, Kind]] = {"steps": "whole", "threshold": "real"}
    threshold: float = number_field(0.0, 1.0, default=0.95, search=(0.5, 1.0))
    minimal_topk: int | None = whole_field(1, default=None, none="unset", search="it is another way to say steps")
    strict: bool = filled_field(False)

    @property
    def counted(self) -> bool:
        return self.steps is not None

    def bind(self, terms: Terms) -> Self:
        """The rule for one block. Raises ConfigError where the steps do not come out even."""
        bound = super().bind(terms)
        if self.minimal_topk is None or bound.steps is None:
            return bound
        return replace(bound, steps=min(bound.steps, max(1, terms.answer_length // self.minimal_topk)))

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        count_B1 = self.share(proposal)[:, None]
        sure_BL = exceeds(proposal, self.threshold, strict=self.strict)
        rank_BL = ranks(proposal.confidence_BL, proposal.open_BL)
        quota_BL = proposal.open_BL & (rank_BL < count_B1)
        if proposal.forced_B is not None:
            quota_BL = torch.where(proposal.forced_B[:, None], quota_BL, sure_BL)
        return torch.where(sure_BL.sum(dim=1, keepdim=True) >= count_B1, sure_BL, quota_BL), memory


@dataclass(frozen=True, kw_only=True)
class Schedule(Counted):
    """Dream's rule: at step i the best floor(open * (1 - t[i+1] / t[i])) positions (Dream 7B, arXiv 2508.15487).

    At least one, which mends the published rule: now and then it pays for a forward and commits nothing.

    Attributes:
        score: what ranks the positions.
        official: as published.
    """

    name: ClassVar[str] = "schedule"
    look: ClassVar[Look] = Look(label="schedule", sentence="as many as Dream's falling timesteps say", **COUNTED)
    reads_open: ClassVar[bool] = True
    score: Score = choice_field(*get_args(Score), default="confidence")
    official: bool = filled_field(False)

    def evidence(self) -> Score:
        return self.score

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        length = proposal.open_BL.shape[1]
        steps = length if self.steps is None else flat(self.steps)
        share_B = timestep_table(proposal.step_B, steps)
        if not self.on_grid:
            open_B = fillable(proposal)
            fewer_B = timestep_share(proposal.step_B, open_B.clamp(min=1).clamp(max=steps))
            share_B = torch.where(open_B < length, fewer_B, share_B)
        count_B = (proposal.open_BL.sum(dim=1) * share_B).long().clamp(min=int(not self.official))
        return proposal.open_BL & (ranks(proposal.score_BL, proposal.open_BL) < count_B[:, None]), memory


def single(number: float | Tensor) -> float | Tensor:
    """A number as it is counted with whole ones: in float32."""
    return number.to(torch.float32) if isinstance(number, Tensor) else number


def exceeds(proposal: Proposal, bar: float | Tensor, *, strict: bool) -> Tensor:
    """The open positions [B, L] whose confidence is at least the bar, or with `strict` above it."""
    confidence_BL = proposal.confidence_BL
    return proposal.open_BL & (confidence_BL > bar if strict else confidence_BL >= bar)


@dataclass(frozen=True, kw_only=True)
class Threshold(Commit):
    """Fast-dLLM's rule: every open position of confidence >= threshold, and the best one anyway (arXiv 2505.22618, alg. 1).

    `alpha` lets the threshold fall as the block fills (Streaming-dLLM, arXiv 2601.17917, eq. 10): threshold * (1 -
    alpha * (1 - r)), r the masked share of the block. With `official` r is the published code's: the masked share of
    block and visible suffix together, and 1 at a block's first step. With `strict` a confidence must exceed it.
    """

    name: ClassVar[str] = "threshold"
    look: ClassVar[Look] = Look(label="threshold", sentence="all that are at least this sure, and the surest anyway", **SURE)
    reads_open: ClassVar[bool] = True
    per_row: ClassVar[Mapping[str, Kind]] = {"threshold": "real", "alpha": "real"}
    threshold: float = number_field(0.0, 1.0, default=0.9, search=(0.5, 1.0))
    alpha: float = filled_field(0.0)
    on_grid: bool = filled_field(False)
    official: bool = filled_field(False)
    strict: bool = filled_field(False)

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        bar: float | Tensor = self.threshold
        if isinstance(self.alpha, Tensor) or self.alpha:
            length: int | Tensor = proposal.masked_BL.shape[1] if self.on_grid else fillable(proposal).clamp(min=1)
            masked_B = proposal.masked_BL.sum(dim=1)
            if self.official:
                ratio_B = (masked_B + proposal.suffix_B) / (length + proposal.suffix_B)
                ratio_B = torch.where(proposal.step_B == 0, 1.0, ratio_B)
            else:
                ratio_B = masked_B / length
            # In float32, whatever the precision of confidences.
            threshold, alpha = (single(flat(number)) for number in (self.threshold, self.alpha))
            bar = (threshold * (1 - alpha * (1 - ratio_B)))[:, None]
        sure_BL = exceeds(proposal, bar, strict=self.strict)
        return sure_BL | surest(proposal), memory


@dataclass(frozen=True, kw_only=True)
class EntropyThreshold(Commit):
    """Every open position whose entropy is at most `threshold` nats, and the one of least entropy anyway.

    The rule of dParallel (arXiv 2509.26488) and d3LLM (arXiv 2601.07568), whose models decode at 0.4 to 0.5 nats. Other than
    a confidence, an entropy tells a doubt between two tokens from one between many.
    Example: entropies .1, .6 and 2.0, threshold .5: the first goes; threshold .05: the first goes as the best.
    """

    name: ClassVar[str] = "entropy"
    look: ClassVar[Look] = Look(label="entropy", sentence="all of little entropy, and the one of least anyway", **SURE)
    reads_open: ClassVar[bool] = True
    per_row: ClassVar[Mapping[str, Kind]] = {"threshold": "real"}
    threshold: float = number_field(0.0, 1000.0, default=0.5, search=(0.01, 2.0))

    def evidence(self) -> Score:
        return "negative_entropy"

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        sure_BL = proposal.open_BL & (proposal.entropy <= self.threshold)
        return sure_BL | surest(proposal, proposal.score_BL), memory


@dataclass(frozen=True, kw_only=True)
class Factor(Commit):
    """Fast-dLLM's parallel rule: the n most confident positions, n the largest with (n + 1)(1 - c_n) < factor, at least 1.

    arXiv 2505.22618v3, theorem 1 and section 3.3. With `official` the published loop's off-by-one: when only the last
    position fails, it is taken all the same.
    """

    name: ClassVar[str] = "factor"
    look: ClassVar[Look] = Look(label="factor", sentence="as many of the surest as Fast-dLLM's theorem 1 allows", **SURE)
    reads_open: ClassVar[bool] = True
    per_row: ClassVar[Mapping[str, Kind]] = {"factor": "real"}
    factor: float = number_field(0.0, 1000.0, default=1.0, search=(0.1, 4.0))
    official: bool = filled_field(False)

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        open_BL, length = proposal.open_BL, proposal.open_BL.shape[1]
        falling_BL = torch.where(open_BL, proposal.confidence_BL, -torch.inf).sort(dim=1, descending=True).values
        place = positions(falling_BL) + 1
        if self.official:
            # As a plain number would be divided, which a column is not.
            passes_BL = falling_BL >= 1 - single(self.factor) * (place + 1).reciprocal()
        else:
            passes_BL = (place + 1) * (1 - falling_BL) < self.factor
        first_BL = (place == 1).expand_as(passes_BL)
        passes_BL = passes_BL | (first_BL if proposal.forced_B is None else first_BL & proposal.forced_B[:, None])
        count_B = passes_BL.long().cumprod(dim=1).sum(dim=1)
        if self.official:
            open_B = open_BL.sum(dim=1)
            count_B = torch.where(count_B == open_B - 1, length, count_B)
        return open_BL & (ranks(proposal.confidence_BL, open_BL) < count_B[:, None]), memory
