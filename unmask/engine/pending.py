"""A step that is launched and not yet finished, and what may be known of it before."""

from typing import NamedTuple

import torch
from torch import Tensor

from unmask.engine.block_steps import BlockStep
from unmask.engine.decision import DecisionKey
from unmask.engine.state import RequestState

Rows = tuple[DecisionKey, list[RequestState]]  # that decide together


class PendingStep(NamedTuple):
    """A step on its way. Its rows stay as they are until it is finished; the next is launched after that, or is the same again.

    Attributes:
        rows: that take part.
        watched: those of which a record is asked.
        parts: which of them decide together.
        numbers: each batch's rows of numbers one behind the other, on the host, to be read after `arrived`.
        arrived: None where nothing is asynchronous.
        failed: why the others of the step take no part in it, if one of its forwards failed: to them nothing has happened.
        again: what launches the same step once more; None: the rows' next forwards are others.
        ahead: whether it was launched before what came of the step before was known: rows may have been done.
    """

    rows: list[RequestState]
    watched: list[bool]
    parts: list[Rows]
    numbers: Tensor
    arrived: torch.cuda.Event | None
    failed: Exception | None = None
    again: list[BlockStep] | None = None
    ahead: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether all of its rows take the same step once more: what has arrived leaves something of each row's block."""
        if self.arrived is not None:
            self.arrived.synchronize()
        begin = 0
        for key, rows in self.parts:
            end = begin + key.rows * key.width
            if not (self.numbers[begin:end].view(key.rows, -1)[: len(rows), 0] > 0).all():
                return False
            begin = end
        return True

    @property
    def likely(self) -> bool:
        """Whether all of them most likely do, as far as the step before has shown: most of each row's block is masked."""
        return all(2 * row.masks > row.structure.length for row in self.rows)


def idle(row: RequestState) -> bool:
    """Whether a row has no part in a step that was launched ahead: it was done, or has gone on to another window."""
    return row.ended is not None or not row.opened
