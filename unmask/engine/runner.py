"""One step of any rows: a shared forward, then each decides by its own method.

    plan -> forward -> propose -> advance -> one read of all rows -> commit

The network does not know what a method is, so rows of different methods, lengths, blocks and phases share its forward;
decisions are made per cohort, the rows with equal recipes, on their slice of the logits. No loop is here: `simple` and
`engine` choose the rows.

Shapes: B rows of a cohort, L block length, K states of a block tried at once (1 unless drafting), R tokens to predict,
V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from unmask.context.plan import assemble
from unmask.context.policy import RowPlan
from unmask.context.pool import KVPool
from unmask.decode.memory import Memory, Streak
from unmask.decode.proposal import Proposal, Sampling, propose
from unmask.decode.rules import Temporal
from unmask.decode.step import Outcome, advance, drafts, status
from unmask.engine.recipe import Recipe
from unmask.engine.request import StepRecord
from unmask.engine.row import Row
from unmask.models.denoiser import Denoiser


def step(model: Denoiser, pool: KVPool, rows: Sequence[Row], watched: Sequence[bool]) -> list[StepRecord | None]:
    """One forward for these rows, each with its pages; a record of each watched one, numbered by its own forwards."""
    parts: dict[tuple[Recipe, bool], list[Row]] = {}
    for row in rows:
        parts.setdefault((row.recipe, row.recipe.branches > 1 and not row.refreshes), []).append(row)
    cohorts = [_Cohort.gather(model, part) for part in parts.values()]
    queries = [
        row.query(plan, cohort.states) for cohort in cohorts for row, plan in zip(cohort.rows, cohort.plans, strict=True)
    ]
    tokens_N, plan = assemble(queries, device=model.device)
    sizes = [cohort.states_BKL.numel() for cohort in cohorts]
    if any(cohort.states > 1 for cohort in cohorts):
        tokens_N[plan.read_R] = torch.cat([cohort.states_BKL.flatten() for cohort in cohorts])
    # Everything that the host copies to the device is there by now: a copy behind the forward would wait for it.
    logits_RV = model.forward(tokens_N, plan, pool)
    outcomes = [cohort.decide(part_RV, model) for cohort, part_RV in zip(cohorts, torch.split(logits_RV, sizes), strict=True)]

    told = [cohort.tell(outcome, model) for cohort, outcome in zip(cohorts, outcomes, strict=True)]
    # The one thing that the host waits for.
    numbers = iter(torch.cat([part.flatten() for part in told]).tolist())
    wanted = {id(row) for row, is_watched in zip(rows, watched, strict=True) if is_watched}
    records: dict[int, StepRecord] = {}
    for cohort, outcome in zip(cohorts, outcomes, strict=True):
        for place, (row, row_plan) in enumerate(zip(cohort.rows, cohort.plans, strict=True)):
            left, made = next(numbers), next(numbers)
            block, taken = ([next(numbers) for _ in range(row.recipe.length)] for _ in range(2))
            row.memories = tuple(_row(memory, place) for memory in outcome.memories)
            row.last = _row(outcome.last, place) if row.recipe.branches > 1 else None
            if id(row) in wanted:
                records[id(row)] = cohort.record(place, outcome, block, taken)
            row.commit(block, taken, left=left, step=made, query_tokens=row.tried(cohort.states) * row_plan.tokens)
    return [records.get(id(row)) for row in rows]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cohort:
    """Rows that decide together, and all that the device must know of them."""

    rows: list[Row]
    plans: list[RowPlan]
    states_BKL: Tensor
    memories: tuple[Memory, ...]
    step_B: Tensor
    suffix_B: Tensor  # positions behind its block that a row sees
    eos: Tensor
    sampling: Sampling | None

    @classmethod
    def gather(cls, model: Denoiser, rows: list[Row]) -> "_Cohort":
        recipe, device = rows[0].recipe, model.device
        plans = [row.plan() for row in rows]
        window_BL = torch.tensor([row.block() for row in rows], device=device)
        states_BKL = window_BL[:, None]
        if recipe.branches > 1 and not rows[0].refreshes:
            states = min(recipe.branches, max(1, *(row.left for row in rows)))
            last = _stack([row.last for row in rows])
            assert last is not None, "a block's refresh leaves its evidence"
            states_BKL = drafts(window_BL, last, states, model.spec.mask_id)
        precise = torch.promote_types(model.dtype, recipe.precision)
        fresh = tuple(
            Streak.empty(1, recipe.length, device, precise) if isinstance(rule, Temporal) else None for rule in recipe.rules
        )
        suffix = [len(plan.positions) - row.begin - recipe.length for row, plan in zip(rows, plans, strict=True)]
        return cls(
            rows=rows,
            plans=plans,
            states_BKL=states_BKL,
            memories=tuple(_stack(memories) for memories in zip(*(row.memories or fresh for row in rows), strict=True)),
            step_B=torch.tensor([row.step for row in rows], device=device),
            suffix_B=torch.tensor(suffix, device=device),
            eos=torch.tensor(recipe.eos_ids, device=device),
            sampling=_sampling(rows, states_BKL.shape[1], model),
        )

    @property
    def states(self) -> int:
        """K."""
        return self.states_BKL.shape[1]

    @property
    def recipe(self) -> Recipe:
        return self.rows[0].recipe

    def decide(self, logits_RV: Tensor, model: Denoiser) -> Outcome:
        """What the evidence of one forward leads to."""
        recipe, mask_id = self.recipe, model.spec.mask_id
        proposal = propose(
            logits_RV.view(-1, recipe.length, logits_RV.shape[-1]),
            self.states_BKL.flatten(0, 1) == mask_id,
            mask_id=mask_id,
            step_B=self.step_B.repeat_interleave(self.states),
            suffix_B=self.suffix_B.repeat_interleave(self.states),
            eos=self.eos,
            score=recipe.score,
            sampling=self.sampling,
            precision=recipe.precision,
        )
        return advance(
            recipe.rules,
            proposal,
            self.states_BKL,
            self.memories,
            mask_id=mask_id,
            one_per_run=recipe.one_per_run,
            subset=recipe.subset,
        )

    def tell(self, outcome: Outcome, model: Denoiser) -> Tensor:
        """What the host must know of each row, int64 [B, 2 + 2 L]: masks left or ENDED, steps made, tokens, their rules."""
        left_B = status(outcome.window_BL, mask_id=model.spec.mask_id, eos=self.eos, ending=self.recipe.ending)
        return torch.cat([left_B[:, None], outcome.step_B[:, None], outcome.window_BL, outcome.taken_BL], dim=1)

    def record(self, place: int, outcome: Outcome, block: list[int], taken: list[int]) -> StepRecord:
        """The record of one row, before it commits the block and what took it; only who looks pays for its reads."""
        row, plan = self.rows[place], self.plans[place]
        queries: list[int] = []
        for state in self.states_BKL[place, : row.tried(self.states)].tolist():
            tokens = [*row.canvas.tokens[: row.begin], *state, *row.canvas.tokens[row.begin + len(state) :]]
            queries += [tokens[position] for position in plan.positions[plan.query]]
        new = [offset for offset, rule in enumerate(taken) if rule]
        return StepRecord(
            forward=row.forwards,
            rows=[0],
            refresh=row.refreshes,
            query_tokens=[queries],
            committed=[[row.begin + offset for offset in new]],
            tokens=[[block[offset] for offset in new]],
            rule=[[self.recipe.rules[taken[offset] - 1].name for offset in new]],
            start=[row.begin],
            block=[row.block()],
            candidate=outcome.last.candidate_BL[place : place + 1].tolist(),
            confidence=outcome.last.confidence_BL[place : place + 1].tolist(),
        )


def _sampling(rows: list[Row], states: int, model: Denoiser) -> Sampling | None:
    """The rows' own numbers as columns [B * K, 1]; None where every row takes the most probable token."""
    requests = [row.request for row in rows]
    if not any(request.temperature > 0 for request in requests):
        return None
    vocabulary = model.spec.vocab_size

    def column(values: list[float] | list[int]) -> Tensor:
        return torch.tensor(values, device=model.device).repeat_interleave(states)[:, None]

    top_p = [1.0 if request.top_p is None else request.top_p for request in requests]
    top_k = [vocabulary if request.top_k is None else request.top_k for request in requests]
    starts = column([row.begin - row.canvas.prompt for row in rows])
    return Sampling(
        temperature_B1=column([request.temperature for request in requests]),
        seed_B1=column([request.seed for request in requests]),
        positions_BL=starts + torch.arange(rows[0].recipe.length, device=model.device),
        top_p_B1=column(top_p) if min(top_p) < 1 else None,
        top_k_B1=column(top_k) if min(top_k) < vocabulary else None,
    )


Rows = TypeVar("Rows", Streak, Proposal)


def _stack(parts: Sequence[Rows | None]) -> Rows | None:
    """Rows of one [1, ...] each as one of [B, ...]."""
    if parts[0] is None:
        return None
    return type(parts[0])(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _row(whole: Rows | None, place: int) -> Rows | None:
    """One row of it, as a view [1, ...]."""
    return None if whole is None else type(whole)(*(part[place : place + 1] for part in whole))
