"""Rows that decide together: what their forward tries, and what its evidence leads to. No number leaves the device here.

Shapes: B rows of a cohort, padding included, L block length, K states of a block tried at once (1 unless drafting),
R = B K L tokens to predict, V vocabulary, W numbers that the host is told of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.context.blocks import Blocks
from unmask.decode.proposal import Sampling, propose
from unmask.decode.step import Outcome, advance, drafts, status
from unmask.engine.recipe import Recipe
from unmask.engine.row import Row
from unmask.engine.seats import Facts, Seats
from unmask.models.denoiser import Denoiser


class Told(NamedTuple):
    """What the host learns of one row."""

    left: int  # masks left in its block, or ENDED
    step: int
    block: list[int]
    taken: list[int]


class Evidence(NamedTuple):
    """What only a watcher of the row wants to know: the states tried, and what the last of them showed."""

    states: list[list[int]]
    candidate: list[int]
    confidence: list[float]


def drafting(row: Row) -> bool:
    """Whether its next forward may try guesses: the one before has left the evidence to make them from."""
    return row.recipe.branches > 1 and not row.refreshes


class Kind(NamedTuple):
    """All that a cohort's decision depends on beside what is on the device."""

    recipe: Recipe
    states: int  # K
    rows: int  # B
    pages: int = 0  # of the widest row, where the device itself looks up what it remembers

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Kind":
        """Of rows with one recipe that draft, or do not, alike."""
        recipe, states = rows[0].recipe, 1
        if drafting(rows[0]):
            states = min(recipe.branches, max(1, *(row.left for row in rows)))
        return cls(recipe, states, len(rows))

    @property
    def width(self) -> int:
        """W."""
        return 2 + (4 + self.states) * self.recipe.length

    def told(self, numbers_BW: Tensor) -> list[Told]:
        """What came of each row, from a decision's numbers on the host."""
        length = self.recipe.length
        rows = numbers_BW[:, : 2 + 2 * length].tolist()
        return [Told(left, step, rest[:length], rest[length:]) for left, step, *rest in rows]

    def evidence(self, numbers_W: Tensor) -> Evidence:
        """Of one row, from its numbers on the host."""
        length = self.recipe.length
        candidate_L, confidence_L, states = torch.split(numbers_W[2 + 2 * length :], [length, length, self.states * length])
        return Evidence(
            states=states.view(self.states, length).tolist(),
            candidate=candidate_L.tolist(),
            confidence=confidence_L.view(torch.float64).tolist(),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Cohort:
    """A kind's rows on the device: `seats_B` says who they are, `eos_E` what ends an answer."""

    kind: Kind
    seats_B: Tensor
    eos_E: Tensor
    seats: Seats
    model: Denoiser

    def states(self) -> Tensor:
        """The states of the block that the forward tries, [B, K, L]: the true one first."""
        recipe, states = self.kind.recipe, self.kind.states
        window_BL = self.seats.window(self.seats_B, recipe.length)
        if states == 1:
            return window_BL[:, None]
        return drafts(window_BL, *self.seats.guess(self.seats_B, recipe.length), states, self.model.spec.mask_id)

    def blocks(self, states_BKL: Tensor) -> Blocks:
        """The block forward that tries them."""
        facts, before = self.seats.facts(self.seats_B), self.kind.recipe.lookbehind
        before_BK1 = facts.before[:, None, None].expand(-1, self.kind.states, before)
        return Blocks(
            tokens_BKQ=torch.cat((before_BK1, states_BKL), dim=2),
            before=before,
            begin_B=facts.begin,
            seen_B=facts.seen,
            copies_B=facts.copies,
            pages_BP=self.seats.pages(self.seats_B, self.kind.pages),
        )

    def decide(self, logits_RV: Tensor, states_BKL: Tensor) -> Tensor:
        """Commit what the evidence leads to, to the seats. For the host, as `Kind.told` reads it: int64 [B, W]."""
        recipe, states, rows, _ = self.kind
        mask_id = self.model.spec.mask_id
        facts = self.seats.facts(self.seats_B)
        proposal = propose(
            logits_RV.view(rows * states, recipe.length, -1),
            states_BKL.flatten(0, 1) == mask_id,
            mask_id=mask_id,
            step_B=self.seats.step(self.seats_B).repeat_interleave(states),
            suffix_B=facts.suffix.repeat_interleave(states),
            eos=self.eos_E,
            score=recipe.score,
            sampling=_sampling(recipe, facts, states),
            precision=recipe.precision,
        )
        precision = torch.promote_types(self.model.dtype, recipe.precision)
        outcome = advance(
            recipe.rules,
            proposal,
            states_BKL,
            self.seats.memories(self.seats_B, recipe, precision),
            mask_id=mask_id,
            one_per_run=recipe.one_per_run,
            subset=recipe.subset,
        )
        self.seats.keep(self.seats_B, outcome, recipe)
        return self._tell(outcome, states_BKL)

    def _tell(self, outcome: Outcome, states_BKL: Tensor) -> Tensor:
        left_B = status(outcome.window_BL, mask_id=self.model.spec.mask_id, eos=self.eos_E, ending=self.kind.recipe.ending)
        confidence_BL = outcome.last.confidence_BL.to(torch.float64).view(torch.int64)
        numbers = (left_B[:, None], outcome.step_B[:, None], outcome.window_BL, outcome.taken_BL)
        evidence = (outcome.last.candidate_BL, confidence_BL, states_BKL.flatten(1))
        return torch.cat((*numbers, *evidence), dim=1)


def decide(cohorts: Sequence[Cohort], states: Sequence[Tensor], logits_RV: Tensor) -> Tensor:
    """Each cohort on its own slice of a forward's logits; what all of them tell, one behind the other, flat."""
    parts = torch.split(logits_RV, [states_BKL.numel() for states_BKL in states])
    return torch.cat([cohort.decide(*part).flatten() for cohort, *part in zip(cohorts, parts, states, strict=True)])


def _sampling(recipe: Recipe, facts: Facts[Tensor], states: int) -> Sampling | None:
    """The rows' own numbers as columns [B * K, 1]; None where the most probable token is taken."""
    if recipe.sampled is None:
        return None

    def column(number_B: Tensor) -> Tensor:
        return number_B.repeat_interleave(states)[:, None]

    def real(bits_B: Tensor) -> Tensor:
        return column(bits_B.view(torch.float64).to(torch.float32))

    return Sampling(
        temperature_B1=real(facts.temperature),
        seed_B1=column(facts.seed),
        positions_BL=column(facts.offset) + torch.arange(recipe.length, device=facts.offset.device),
        top_p_B1=real(facts.top_p) if recipe.sampled.top_p else None,
        top_k_B1=column(facts.top_k) if recipe.sampled.top_k else None,
    )
