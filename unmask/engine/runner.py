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

from unmask.context.plan import assemble, page_table, ship
from unmask.context.pool import pages_for
from unmask.engine.cohort import Cohort, Evidence, Kind, Told, decide, drafting
from unmask.engine.graphs import BlockSteps, graphable, roomy
from unmask.engine.recipe import Recipe
from unmask.engine.request import StepRecord
from unmask.engine.row import Row
from unmask.engine.seats import FACTS, Facts, Seats
from unmask.models.denoiser import Denoiser

Part = tuple[Kind, list[Row]]  # rows that decide together


class Flight(NamedTuple):
    """A step on its way. Its rows stay as they are until it lands, and it lands before the next is launched.

    `told` holds each part's rows of numbers one behind the other. It is on the host, to be read behind `landed`; None
    where nothing is asynchronous.
    """

    rows: list[Row]
    watched: list[bool]
    parts: list[Part]
    told: Tensor
    landed: torch.cuda.Event | None


class Runner:
    """A model, what the device remembers of its rows, and the steps that they take."""

    def __init__(self, model: Denoiser, *, pages: int, rows: int) -> None:
        """`pages` of key/value memory for at most this many rows at once."""
        self.model = model
        self.pool = model.pool(pages)
        self._seats = Seats(rows, scratch=self.pool.scratch, device=model.device)
        self._steps = BlockSteps(model, self.pool, self._seats)

    def seat(self, row: Row) -> None:
        """Lend a row what it needs; the caller knows that there are pages and a seat."""
        row.pages = self.pool.take(pages_for(row.slots))
        row.seat = self._seats.take(row.recipe.length, len(row.pages))

    def free(self, row: Row) -> None:
        """Take it back. A step in the air may still write there: it lands before anybody else is seated."""
        self.pool.give(row.pages)
        self._seats.give(row.seat)

    @torch.inference_mode()
    def launch(self, rows: Sequence[Row], watched: Sequence[bool]) -> Flight:
        """Put a step of these rows on its way: nothing here waits for the device."""
        stays = [graphable(row) for row in rows] if self.model.replayable else [False] * len(rows)
        replayed = [row for row, one in zip(rows, stays, strict=True) if one]
        packed = [row for row, one in zip(rows, stays, strict=True) if not one]
        with torch.cuda.device_of(self.pool.keys[0]):  # type: ignore[no-untyped-call]
            launched = [half(some) for half, some in ((self._packed, packed), (self._replayed, replayed)) if some]
            told, landed = _home(torch.cat([numbers for _, numbers in launched]))
        return Flight(list(rows), list(watched), [part for parts, _ in launched for part in parts], told, landed)

    def land(self, flight: Flight) -> list[StepRecord | None]:
        """Wait for a step and commit it to its rows; a record of each watched one, numbered by its own forwards."""
        if flight.landed is not None:
            flight.landed.synchronize()
        wanted = {id(row) for row, watched in zip(flight.rows, flight.watched, strict=True) if watched}
        records: dict[int, StepRecord] = {}
        begin = 0
        for kind, rows in flight.parts:
            end = begin + kind.rows * kind.width
            numbers_BW = flight.told[begin:end].view(kind.rows, -1)[: len(rows)]  # what follows is padding
            begin = end
            for row, told, numbers_W in zip(rows, kind.told(numbers_BW), numbers_BW, strict=True):
                if id(row) in wanted:
                    records[id(row)] = _record(row, told, kind.evidence(numbers_W))
                queried = row.tried(kind.states) * row.plan().tokens
                row.commit(told.block, told.taken, left=told.left, step=told.step, query_tokens=queried)
        return [records.get(id(row)) for row in flight.rows]

    def _packed(self, rows: Sequence[Row]) -> tuple[list[Part], Tensor]:
        """Forwards of any length, packed behind each other: who decides together, and what `decide` tells of them."""
        parts = _cohorts(rows)
        model, seats = self.model, self._seats
        widest, _ = seats.shape
        opening = [row for row in rows if row.refreshes]
        opened, facts, pages, *numbers = ship(
            [row.seat for row in opening],
            [number for row in opening for number in Facts.of(row)],
            page_table([row.pages for row in opening], widest),
            *([row.seat for row in some] for _, some in parts),
            *(kind.recipe.eos_ids for kind, _ in parts),
            device=model.device,
        )
        if opening:
            seats.fill(opened, facts.view(-1, FACTS), pages.view(len(opening), widest), model.spec.mask_id)
        cohorts = [
            Cohort(kind=kind, seats_B=seats_B, eos_E=eos_E, seats=seats, model=model)
            for (kind, _), seats_B, eos_E in zip(parts, numbers[: len(parts)], numbers[len(parts) :], strict=True)
        ]
        queries = [row.query(row.plan(), kind.states) for kind, some in parts for row in some]
        tokens_N, plan = assemble(queries, device=model.device)
        states = [cohort.states() for cohort in cohorts]
        if any(kind.states > 1 for kind, _ in parts):
            tokens_N[plan.read_R] = torch.cat([states_BKL.flatten() for states_BKL in states])
        return parts, decide(cohorts, states, model.forward(tokens_N, plan, self.pool))

    def _replayed(self, rows: Sequence[Row]) -> tuple[list[Part], Tensor]:
        """Block forwards over buffers that stay; likewise."""
        parts = [(roomy(kind, some), some) for kind, some in _cohorts(rows)]
        # In one order, whoever comes first in line: two kinds are one step and not two.
        # Nor by their hashes, of which processes that share a model have each their own.
        parts.sort(key=lambda part: repr(part[0].recipe))
        return parts, self._steps([(kind, [row.seat for row in some]) for kind, some in parts])


def _record(row: Row, told: Told, evidence: Evidence) -> StepRecord:
    """The record of a row that has not committed the step yet."""
    plan = row.plan()
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
        looks=[{rule.name: rule.look for rule in row.recipe.rules}],
    )


def _cohorts(rows: Sequence[Row]) -> list[Part]:
    """Which of these rows decide together."""
    found: dict[tuple[Recipe, bool], list[Row]] = {}
    for row in rows:
        found.setdefault((row.recipe, drafting(row)), []).append(row)
    return [(Kind.of(some), some) for some in found.values()]


def _home(told: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Numbers on the way to the host, in pinned memory where the device is another, and what says that they are there."""
    if told.device.type != "cuda":
        return told.cpu(), None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    host = told.to("cpu", non_blocking=True)
    event.record(torch.cuda.current_stream(told.device))
    return host, event
