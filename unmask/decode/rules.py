"""Every commit rule, and how rules join. Pure: evidence in, a mask out; `step.advance` writes.

A rule answers one question: which of the positions still open does it take? Rules run in order and each sees what the
earlier ones left (`select`). Checked: with R2-dLLM's rules a plain union of masks differs from the published decoder.

Shapes: B rows, L block positions. `open` never grows, no rule takes what is not open, and the base rules (quota,
threshold, factor, schedule) take at least one position of every row that has one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from unmask.decode.memory import Memory, State, Streak
from unmask.decode.proposal import Proposal
from unmask.decode.schedule import timestep_shares

Pick = Literal["confidence", "mid", "random"]
Metric = Literal["last", "ave", "max"]


class Rule(Protocol):
    """`memory` comes in as it was handed back at the step before.

    Attributes:
        name: what records say.
        state: what it carries; None: nothing.
        edits: whether it may rewrite committed positions that are not fixed.
        reads_hidden: whether it reads `proposal.hidden_BLC`.
    """

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> type[State] | None: ...

    @property
    def edits(self) -> bool: ...

    @property
    def reads_hidden(self) -> bool: ...

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]: ...


class Plain:
    """What most rules are: they carry nothing, write masks alone and read the proposal's numbers."""

    state: ClassVar[type[State] | None] = None
    edits: ClassVar[bool] = False
    reads_hidden: ClassVar[bool] = False


class Selection(NamedTuple):
    """`taken_BL` int64: 0 where nothing is committed, else 1 + the index of the rule that took the position."""

    taken_BL: Tensor
    memories: tuple[Memory, ...]


def select(rules: Sequence[Rule], proposal: Proposal, memories: Sequence[Memory], *, one_per_run: bool = False) -> Selection:
    """Run the rules in order; each sees the positions that the earlier ones left open.

    `one_per_run` keeps, of every run of equal predictions, only the commit of the earliest rule (the most confident
    position if one rule took several), because copies of one token at neighbouring positions are usually the same word
    that has not found its place (specs of R2-dLLM, duplicate-token hazard). Predictions that end the answer are exempt.
    """
    taken_BL = torch.zeros_like(proposal.candidate_BL)
    kept: list[Memory] = []
    for number, (rule, memory) in enumerate(zip(rules, memories, strict=True), start=1):
        mask_BL, memory = rule(proposal, memory)
        new_BL = mask_BL & proposal.open_BL
        proposal = proposal._replace(open_BL=proposal.open_BL ^ new_BL)
        if rule.edits:  # it also rewrites what no earlier rule has written in this step, where its token is another one
            edited_BL = proposal.editable & (taken_BL == 0) & (proposal.candidate_BL != proposal.token_BL)
            new_BL = new_BL | (mask_BL & edited_BL)
        # What one rule takes is closed to the next, so that a sum is enough.
        taken_BL = taken_BL.add(new_BL, alpha=number)
        kept.append(memory)
    if one_per_run:
        # Confidence lies in 0..1, so two apart is enough to let an earlier rule win.
        key_BL = (proposal.confidence_BL - 2.0 * taken_BL).masked_fill(taken_BL == 0, -torch.inf)
        first_BL = best_of_run(key_BL, same_run(proposal.candidate_BL, proposal.masked_BL))
        taken_BL = taken_BL * (first_BL | proposal.filler_BL)
    return Selection(taken_BL, tuple(kept))


# --- ranks and runs ---------------------------------------------------------------------------------------------------


def ranks(score_BL: Tensor, among_BL: Tensor) -> Tensor:
    """Place of each position in falling order of score, 0 the best; those outside `among` come last. Ties: lower index.

    >>> ranks(torch.tensor([[0.2, 0.9, 0.5]]), torch.tensor([[True, False, True]]))
    tensor([[1, 2, 0]])
    """
    return torch.where(among_BL, score_BL, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def best(score_BL: Tensor, among_BL: Tensor) -> Tensor:
    """The mask [B, L] of the one best position of each row; empty where `among` is empty. Ties: lower index."""
    top_B1 = score_BL.masked_fill(~among_BL, -torch.inf).argmax(dim=1, keepdim=True)
    return among_BL & (positions(score_BL) == top_B1)


def positions(like_BL: Tensor) -> Tensor:
    return torch.arange(like_BL.shape[1], device=like_BL.device)


def same_run(candidate_BL: Tensor, among_BL: Tensor) -> Tensor:
    """Whether i and j stand in one unbroken run of equal candidates within `among`. Bool [B, L, L].

    A position outside `among` is a run of its own.

    >>> same_run(torch.tensor([[7, 7, 3]]), torch.tensor([[True, True, False]]))[0].long()
    tensor([[1, 1, 0],
            [1, 1, 0],
            [0, 0, 1]])
    """
    key_BL = torch.where(among_BL, candidate_BL, ~positions(among_BL))  # below zero and never twice
    number_BL = pad(key_BL[:, 1:] != key_BL[:, :-1], (1, 0)).cumsum(dim=1)
    return number_BL[:, :, None] == number_BL[:, None, :]


def best_of_run(key_BL: Tensor, same_BLL: Tensor) -> Tensor:
    """The mask [B, L] of positions that hold the largest key of their own run. Ties: lower index."""
    top_BL = torch.where(same_BLL, key_BL[:, None, :], -torch.inf).argmax(dim=2)
    return top_BL == positions(key_BL)


# --- base rules: at least one commit per row --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Quota(Plain):
    """LLaDA's rule: the same number of positions at every step, the best first (arXiv 2502.09992)."""

    base: int
    surplus: int
    name: ClassVar[str] = "quota"

    @classmethod
    def even(cls, block_length: int, steps: int) -> "Quota":
        """As even as can be over these steps, the surplus first: 16 tokens in 5 steps are 4, 3, 3, 3, 3."""
        base, surplus = divmod(block_length, steps)
        return cls(base=base, surplus=surplus)

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        count_B = (proposal.step_B < self.surplus) + self.base
        return proposal.open_BL & (ranks(proposal.score_BL, proposal.open_BL) < count_B[:, None]), memory


@dataclass(frozen=True, kw_only=True)
class Schedule(Plain):
    """Dream's rule: at step i the best floor(open * (1 - t[i+1] / t[i])) positions (Dream 7B, arXiv 2508.15487).

    `at_least_one` mends the published rule, which now and then pays for a forward and commits nothing.
    """

    steps: int
    at_least_one: bool
    name: ClassVar[str] = "schedule"

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        shares = timestep_shares(self.steps, proposal.step_B.device)
        share_B = shares.gather(0, proposal.step_B.clamp(max=self.steps - 1))
        count_B = (proposal.open_BL.sum(dim=1) * share_B).long().clamp(min=int(self.at_least_one))
        return proposal.open_BL & (ranks(proposal.score_BL, proposal.open_BL) < count_B[:, None]), memory


@dataclass(frozen=True, kw_only=True)
class Threshold(Plain):
    """Fast-dLLM's rule: every open position of confidence >= threshold, and the best one anyway (arXiv 2505.22618, alg. 1).

    `alpha` lets the threshold fall as the block fills (Streaming-dLLM, arXiv 2601.17917, eq. 10): threshold * (1 -
    alpha * (1 - r)), r the masked share of the block. With `of_query` r is the published code's: the masked share of
    block and visible suffix together, and 1 at a block's first step.
    """

    threshold: float
    alpha: float = 0.0
    of_query: bool = False
    name: ClassVar[str] = "threshold"

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        bar: float | Tensor = self.threshold
        if self.alpha:
            length = proposal.masked_BL.shape[1]
            masked_B = proposal.masked_BL.sum(dim=1)
            if self.of_query:
                ratio_B = (masked_B + proposal.suffix_B) / (length + proposal.suffix_B)
                ratio_B = torch.where(proposal.step_B == 0, 1.0, ratio_B)
            else:
                ratio_B = masked_B / length
            bar = (self.threshold * (1 - self.alpha * (1 - ratio_B)))[:, None]
        sure_BL = proposal.open_BL & (proposal.confidence_BL >= bar)
        return sure_BL | best(proposal.confidence_BL, proposal.open_BL), memory


@dataclass(frozen=True, kw_only=True)
class Factor(Plain):
    """Fast-dLLM's parallel rule: the n most confident positions, n the largest with (n + 1)(1 - c_n) < factor, at least 1.

    arXiv 2505.22618v3, theorem 1 and section 3.3. With `official` the published loop's off-by-one: when only the last
    position fails, it is taken all the same.
    """

    factor: float
    official: bool = False
    name: ClassVar[str] = "factor"

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


# --- R2-dLLM's rules: they take what the base rule left ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ConfidenceCluster(Plain):
    """R2-dLLM's spatial rule: a window of `size` positions whose open ones are sure enough on average goes as a whole.

    arXiv 2604.18995, eq. 2, as the published code has it: the mean runs over the open positions of the window, which
    may hold at most `max_unmasked` others (None: any number), and windows do not feed one another.
    Example: confidences .70 .95 .75 with .95 already taken, threshold .7, max_unmasked 1: both others go.
    """

    size: int
    threshold: float
    max_unmasked: int | None
    name: ClassVar[str] = "confidence_cluster"

    def windows(self, proposal: Proposal) -> Tensor:
        """Which windows are sure enough: bool [B, L - size + 1], window a covering the positions a .. a + size - 1."""
        open_BW = proposal.open_BL.to(proposal.confidence_BL.dtype)
        counts_BW = open_BW.unfold(1, self.size, 1).sum(dim=-1)
        sums_BW = (open_BW * proposal.confidence_BL).unfold(1, self.size, 1).sum(dim=-1)
        # A window with nothing open has 0 / 0, and NaN >= threshold is false.
        sure_BW = sums_BW / counts_BW >= self.threshold
        if self.max_unmasked is not None:
            sure_BW = sure_BW & (counts_BW >= self.size - max(self.max_unmasked, 0))
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
class TokenCluster(Plain):
    """R2-dLLM's token rule: a run of the same prediction commits one position (arXiv 2604.18995, eq. 3).

    A run of at least `min_length` open positions counts if its largest confidence exceeds `threshold`; `pick` says
    which position goes: the most confident, the middle one (start + length // 2) or one drawn by a hash of run and step.
    """

    threshold: float
    min_length: int = 2
    pick: Pick = "confidence"
    name: ClassVar[str] = "token_cluster"

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
class Temporal(Plain):
    """R2-dLLM's temporal finalisation: a prediction that stays for `steps` steps is committed (arXiv 2604.18995, eq. 4).

    It must also be sure: `metric` of the streak, its last confidence, the average or the largest, >= threshold.
    Positions are watched while the earlier rules leave them open; a block starts with no streak.
    """

    steps: int
    threshold: float
    metric: Metric = "last"
    name: ClassVar[str] = "temporal"
    state: ClassVar[type[State] | None] = Streak

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
        stable_BL = open_BL & (length_BL >= self.steps) & (value_BL >= self.threshold)
        token_BL = proposal.candidate_BL.masked_fill(~open_BL, -1)
        return stable_BL, Streak(token=token_BL, length=length_BL, total=total_BL, peak=peak_BL)
