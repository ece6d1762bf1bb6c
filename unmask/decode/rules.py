"""The base rules that several methods share: evidence in, a mask out; at least one commit per row. Pure.

A rule that belongs to one method stands in that method's file, or in a file of its own. See rule.py for what a rule is.

Shapes: B rows, L block positions.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self, get_args

import torch
from torch import Tensor

from unmask.decode.memory import Memory, State
from unmask.decode.proposal import Proposal, Score
from unmask.decode.rule import Commit, Look, Terms, best, positions
from unmask.decode.rule import Rule as Rule
from unmask.decode.rule import ranks as ranks
from unmask.decode.rule import select as select
from unmask.decode.schedule import timestep_shares
from unmask.decode.settings import Range, choice_field, filled_field, number_field, whole_field
from unmask.errors import ConfigError

# Rules that stand in for each other share their colours: no method has both.
COUNTED = {"terminal": "white", "light": "#6b50cf", "dark": "#a996ff"}
SURE = {"terminal": "green", "light": "#0b9a6d", "dark": "#34d399"}


@dataclass(frozen=True, kw_only=True)
class Counted(Commit):
    """A base rule that takes a fixed number of steps.

    Attributes:
        steps: for the whole answer, None: one per token; of a rule that is bound, for one block.
    """

    counted: ClassVar[bool] = True
    steps: int | None = whole_field(1, default=None, none="unset", search=(1, 4096))

    def bind(self, terms: Terms) -> Self:
        """The rule for one block. Raises ConfigError where the steps do not come out even."""
        bound = super().bind(terms)
        return replace(bound, steps=self.steps_per_block(terms.answer_length, terms.block_length))

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
    """LLaDA's rule: the same number of positions at every step, the best first (arXiv 2502.09992).

    As even as can be, the surplus first: 16 tokens in 5 steps are 4, 3, 3, 3, 3.
    """

    name: ClassVar[str] = "quota"
    look: ClassVar[Look] = Look(label="quota", sentence="the same number of tokens at every step, the surest", **COUNTED)

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        length = proposal.open_BL.shape[1]
        base, surplus = divmod(length, self.steps or length)
        count_B = (proposal.step_B < surplus) + base
        return proposal.open_BL & (ranks(proposal.score_BL, proposal.open_BL) < count_B[:, None]), memory


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
    score: Score = choice_field(*get_args(Score), default="confidence")
    official: bool = filled_field(False)

    def evidence(self) -> Score:
        return self.score

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        steps = self.steps or proposal.open_BL.shape[1]
        shares = timestep_shares(steps, proposal.step_B.device)
        share_B = shares.gather(0, proposal.step_B.clamp(max=steps - 1))
        count_B = (proposal.open_BL.sum(dim=1) * share_B).long().clamp(min=int(not self.official))
        return proposal.open_BL & (ranks(proposal.score_BL, proposal.open_BL) < count_B[:, None]), memory


@dataclass(frozen=True, kw_only=True)
class Threshold(Commit):
    """Fast-dLLM's rule: every open position of confidence >= threshold, and the best one anyway (arXiv 2505.22618, alg. 1).

    `alpha` lets the threshold fall as the block fills (Streaming-dLLM, arXiv 2601.17917, eq. 10): threshold * (1 -
    alpha * (1 - r)), r the masked share of the block. With `official` r is the published code's: the masked share of
    block and visible suffix together, and 1 at a block's first step.
    """

    name: ClassVar[str] = "threshold"
    look: ClassVar[Look] = Look(label="threshold", sentence="all that are at least this sure, and the surest anyway", **SURE)
    threshold: float = number_field(0.0, 1.0, default=0.9, search=(0.5, 1.0))
    alpha: float = filled_field(0.0)
    official: bool = filled_field(False)

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        bar: float | Tensor = self.threshold
        if self.alpha:
            length = proposal.masked_BL.shape[1]
            masked_B = proposal.masked_BL.sum(dim=1)
            if self.official:
                ratio_B = (masked_B + proposal.suffix_B) / (length + proposal.suffix_B)
                ratio_B = torch.where(proposal.step_B == 0, 1.0, ratio_B)
            else:
                ratio_B = masked_B / length
            bar = (self.threshold * (1 - self.alpha * (1 - ratio_B)))[:, None]
        sure_BL = proposal.open_BL & (proposal.confidence_BL >= bar)
        return sure_BL | best(proposal.confidence_BL, proposal.open_BL), memory


@dataclass(frozen=True, kw_only=True)
class Factor(Commit):
    """Fast-dLLM's parallel rule: the n most confident positions, n the largest with (n + 1)(1 - c_n) < factor, at least 1.

    arXiv 2505.22618v3, theorem 1 and section 3.3. With `official` the published loop's off-by-one: when only the last
    position fails, it is taken all the same.
    """

    name: ClassVar[str] = "factor"
    look: ClassVar[Look] = Look(label="factor", sentence="as many of the surest as Fast-dLLM's theorem 1 allows", **SURE)
    factor: float = number_field(0.0, 1000.0, default=1.0, search=(0.1, 4.0))
    official: bool = filled_field(False)

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        open_BL, length = proposal.open_BL, proposal.open_BL.shape[1]
        falling_BL = torch.where(open_BL, proposal.confidence_BL, -torch.inf).sort(dim=1, descending=True).values
        place = positions(falling_BL) + 1
        if self.official:
            passes_BL = falling_BL >= 1 - self.factor / (place + 1)
        else:
            passes_BL = (place + 1) * (1 - falling_BL) < self.factor
        passes_BL = passes_BL | (place == 1)
        count_B = passes_BL.long().cumprod(dim=1).sum(dim=1)
        if self.official:
            open_B = open_BL.sum(dim=1)
            count_B = torch.where(count_B == open_B - 1, length, count_B)
        return open_BL & (ranks(proposal.confidence_BL, open_BL) < count_B[:, None]), memory


@dataclass(frozen=True, kw_only=True)
class Anchored:
    """The published Dream loops: the step after a refresh takes the block's first position, whatever `rule` would take."""

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
    def reads_hidden(self) -> bool:
        return self.rule.reads_hidden

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        mask_BL, memory = self.rule(proposal, memory)
        anchor_BL = proposal.open_BL & (positions(mask_BL) == 0)
        return torch.where((proposal.step_B == 0)[:, None], anchor_BL, mask_BL), memory
