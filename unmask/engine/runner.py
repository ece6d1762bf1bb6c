"""One step of any rows, in two halves: a shared forward and what it decides is launched; later it lands on the host.

    launch:  plan -> forward -> propose -> advance -> a copy of what the host must know
    land:    wait for that copy -> commit

The network does not know what a method is, so rows of different methods, lengths, blocks and phases share its forward;
decisions are made per cohort, the rows with equal recipes, on their slice of the logits. No loop is here: `simple` and
`engine` choose the rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.context.plan import assemble, ship
from unmask.context.policy import RowPlan
from unmask.context.pool import pages_for
from unmask.engine.cohort import Cohort, Evidence, Kind, Told
from unmask.engine.recipe import Recipe
from unmask.engine.request import StepRecord
from unmask.engine.row import Row
from unmask.engine.seats import FACTS, Facts, Seats
from unmask.models.denoiser import Denoiser


class Flight(NamedTuple):
    """A step on its way. Its rows stay as they are until it lands; only one is in the air at a time.

    Attributes:
        rows, watched: as they were launched.
        parts: the rows of each cohort, as indices.
        told: on the host, but to be read behind `event`; None where nothing is asynchronous.
    """

    rows: list[Row]
    watched: list[bool]
    plans: list[RowPlan]
    parts: list[tuple[Kind, list[int]]]
    told: Tensor
    event: torch.cuda.Event | None


class Runner:
    """A model, the memory of its rows, and the steps that they take."""

    def __init__(self, model: Denoiser, *, pages: int, rows: int) -> None:
        """`pages` of key/value memory for at most this many rows at once."""
        self.model = model
        self.pool = model.pool(pages)
        self._seats = Seats(rows, scratch=self.pool.scratch, device=model.device)

    def seat(self, row: Row) -> None:
        """Lend a row what it needs; the caller knows that there are pages and a seat."""
        row.pages = self.pool.take(pages_for(row.slots))
        row.seat = self._seats.take(row.recipe.length, len(row.pages))

    def free(self, row: Row) -> None:
        """Take it back. What is still in the air may write there: it lands before anybody else is seated."""
        self.pool.give(row.pages)
        self._seats.give(row.seat)

    @torch.inference_mode()
    def launch(self, rows: Sequence[Row], watched: Sequence[bool]) -> Flight:
        """One forward for these rows and all that follows from it, on its way. Nothing here waits for the device."""
        model, seats = self.model, self._seats
        plans = [row.plan() for row in rows]
        groups: dict[tuple[Recipe, bool], list[int]] = {}
        for place, row in enumerate(rows):
            groups.setdefault((row.recipe, row.recipe.branches > 1 and not row.refreshes), []).append(place)
        parts = [(Kind.of([rows[place] for place in places]), places) for places in groups.values()]

        opening = [(row, plan) for row, plan in zip(rows, plans, strict=True) if row.refreshes]
        opened, facts, pages, *numbers = ship(
            [row.seat for row, _ in opening],
            [number for row, plan in opening for number in Facts.of(row, plan)],
            [page for row, _ in opening for page in (*row.pages, *[0] * (seats.pages - len(row.pages)))],
            *([rows[place].seat for place in places] for _, places in parts),
            *(kind.recipe.eos_ids for kind, _ in parts),
            device=model.device,
        )
        if opening:
            seats.fill(opened, facts.view(-1, FACTS), pages.view(len(opening), -1), model.spec.mask_id)
        cohorts = [
            Cohort(kind=kind, seats_B=seats_B, eos_E=eos_E, seats=seats, model=model)
            for (kind, _), seats_B, eos_E in zip(parts, numbers[: len(parts)], numbers[len(parts) :], strict=True)
        ]
        queries = [rows[place].query(plans[place], kind.states) for kind, places in parts for place in places]
        tokens_N, plan = assemble(queries, device=model.device)
        states = [part.states() for part in cohorts]
        if any(kind.states > 1 for kind, _ in parts):
            tokens_N[plan.read_R] = torch.cat([states_BKL.flatten() for states_BKL in states])
        logits_RV = model.forward(tokens_N, plan, self.pool)
        sizes = [states_BKL.numel() for states_BKL in states]
        told = torch.cat(
            [
                part.decide(part_RV, states_BKL).flatten()
                for part, part_RV, states_BKL in zip(cohorts, torch.split(logits_RV, sizes), states, strict=True)
            ]
        )
        told, event = _home(told)
        return Flight(list(rows), list(watched), plans, parts, told, event)

    def land(self, flight: Flight) -> list[StepRecord | None]:
        """Wait for a step and commit it to its rows; a record of each watched one, numbered by its own forwards."""
        if flight.event is not None:
            flight.event.synchronize()
        records: list[StepRecord | None] = [None] * len(flight.rows)
        begin = 0
        for kind, places in flight.parts:
            end = begin + kind.rows * kind.width
            numbers_BW = flight.told[begin:end].view(kind.rows, -1)
            begin = end
            for place, told, numbers_W in zip(places, kind.told(numbers_BW), numbers_BW, strict=False):
                row, plan = flight.rows[place], flight.plans[place]
                if flight.watched[place]:
                    records[place] = _record(row, plan, told, kind.evidence(numbers_W))
                row.commit(
                    told.block,
                    told.taken,
                    left=told.left,
                    step=told.step,
                    query_tokens=row.tried(kind.states) * plan.tokens,
                )
        return records


def _record(row: Row, plan: RowPlan, told: Told, evidence: Evidence) -> StepRecord:
    """The record of a row that has not committed the step yet."""
    queries: list[int] = []
    for state in evidence.states[: row.tried(len(evidence.states))]:
        tokens = [*row.canvas.tokens[: row.begin], *state, *row.canvas.tokens[row.begin + len(state) :]]
        queries += [tokens[position] for position in plan.positions[plan.query]]
    new = [offset for offset, rule in enumerate(told.taken) if rule]
    return StepRecord(
        forward=row.forwards,
        rows=[0],
        refresh=row.refreshes,
        query_tokens=[queries],
        committed=[[row.begin + offset for offset in new]],
        tokens=[[told.block[offset] for offset in new]],
        rule=[[row.recipe.rules[told.taken[offset] - 1].name for offset in new]],
        start=[row.begin],
        block=[row.block()],
        candidate=[evidence.candidate],
        confidence=[evidence.confidence],
    )


def _home(told: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Numbers on the way to the host, in pinned memory where the device is another, and what says that they are there."""
    if told.device.type != "cuda":
        return told.cpu(), None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    host = told.to("cpu", non_blocking=True)
    event.record(torch.cuda.current_stream(told.device))
    return host, event
