"""The reference loop: one batch, no scheduler. Papers and tests read this one.

A round takes the rows that are at the same kind of forward (refreshes, or block forwards), launches one model call for
them and, when it has landed, lets each commit. Rows never wait for each other's blocks and never see each other's tokens.
"""

import dataclasses
from collections.abc import Sequence

from unmask.context.pool import pages_for
from unmask.engine.request import Completion, Observer, Request, StepRecord
from unmask.engine.row import Row
from unmask.engine.runner import Runner
from unmask.models.denoiser import Denoiser


def decode(model: Denoiser, requests: Sequence[Request], observer: Observer | None = None) -> list[Completion]:
    """Answer all requests as one batch; completions in their order. Each may have its own method and length.

    Raises RequestError or ConfigError before the first forward.
    """
    rows = [Row.start(request, model) for request in requests]
    runner = Runner(model, pages=sum(pages_for(row.slots) for row in rows), rows=len(rows))
    for row in rows:
        runner.seat(row)
    done: dict[int, Completion] = {}
    calls = 0
    while len(done) < len(rows):
        alive = [index for index in range(len(rows)) if index not in done]
        refreshing = [index for index in alive if rows[index].refreshes]
        going_on = [index for index in alive if not rows[index].refreshes]
        for indices in (refreshing, going_on):
            if not indices:
                continue
            flight = runner.launch([rows[index] for index in indices], [observer is not None] * len(indices))
            records = runner.land(flight)
            if observer is not None:
                observer(_joined(records, indices, calls))
            calls += 1
        done |= {index: rows[index].complete() for index in alive if rows[index].settle()}
    return [done[index] for index in range(len(rows))]


def _joined(records: Sequence[StepRecord | None], indices: list[int], forward: int) -> StepRecord:
    """One record of a forward from those of its rows."""
    found = [record for record in records if record is not None]
    lists = {
        part.name: [entry for record in found for entry in getattr(record, part.name)]
        for part in dataclasses.fields(StepRecord)
        if part.name not in ("forward", "rows", "refresh")
    }
    return StepRecord(forward=forward, rows=indices, refresh=found[0].refresh, **lists)
