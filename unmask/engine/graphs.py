"""Steps of block forwards over buffers that stay, so that a GPU replays each as one graph: forward, decision and all.

A block forward's shapes depend on nothing but its kinds (recipe, states, rows), and what it computes on lies in tables by
seat. So the host says who takes part, and says even that only when it changes. Whatever else a forward may be (refreshes,
forwards that query a suffix too) is long and seldom twice of one shape: that is launched kernel by kernel.

On other devices the same code runs as a plain call; tests compare it with the packed forwards.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unmask.context.blocks import assemble_blocks
from unmask.context.plan import ship, stage
from unmask.context.pool import KVPool
from unmask.engine.cohort import Cohort, Kind, decide
from unmask.engine.row import Row
from unmask.engine.seats import Seats, widened
from unmask.models.denoiser import Denoiser

OFTEN = 4  # calls of a step, of which the last is captured: what comes up less often is not worth it
KEPT = 128  # graphs; rows whose settings differ from everybody's make many kinds, few of which come again


def graphable(row: Row) -> bool:
    """Whether a row's next forward is a block forward: the block alone is queried, all else is remembered."""
    return row.recipe.cache == "dual" and not row.refreshes


def roomy(kind: Kind, rows: Sequence[Row]) -> Kind:
    """The kind of step that these rows of a kind share with others: with room for a few more rows and pages."""
    return kind._replace(rows=padded(kind.rows), pages=widened(max(len(row.pages) for row in rows)))


def padded(rows: int) -> int:
    """Rows of the smallest batch that holds these: a power of two, or from 8 on one and a half times one.

    Few sizes, because the graphs of growing batches share memory badly: a larger tensor fits into no smaller one's place.

    >>> [padded(rows) for rows in (1, 3, 5, 9, 13, 33, 49)]
    [1, 4, 8, 12, 16, 48, 64]
    """
    power = 1 << (rows - 1).bit_length()
    return 3 * power // 4 if power > 8 and rows <= 3 * power // 4 else power


Compute = Callable[[], Tensor]


def capturing(device: torch.device) -> Callable[[Compute], Compute | None]:
    """What makes of a function over tensors that stay one that replays it as a graph; None without a GPU.

    What it launches must have been compiled and allocated, so it has run before. All graphs share memory for what they
    compute on: each is done with it before the next is launched. Other threads' work on the device may go on meanwhile.
    """
    if device.type != "cuda":
        return lambda compute: None
    stream, memory = _stream(device), torch.cuda.graph_pool_handle()

    def capture(compute: Compute) -> Compute:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=memory, stream=stream, capture_error_mode="thread_local"):
            made = compute()

        def replay() -> Tensor:
            graph.replay()
            return made

        return replay

    return capture


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that graphs are captured on: one for all, because cuBLAS keeps a workspace for each, for ever."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class BlockStep:
    """One step of rows of these kinds, over buffers that stay; captured when it is sure to come up often."""

    def __init__(
        self, kinds: Sequence[Kind], model: Denoiser, pool: KVPool, seats: Seats, capture: Callable[[Compute], Compute | None]
    ) -> None:
        self._kinds, self._model, self._pool, self._nobody = kinds, model, pool, seats.nobody
        sizes = [kind.rows for kind in kinds]
        self._taking = [seats.nobody] * sum(sizes)
        self._taking_B, *eos = ship(self._taking, *(kind.recipe.eos_ids for kind in kinds), device=model.device)
        self._cohorts = [
            Cohort(kind=kind, seats_B=seats_B, eos_E=eos_E, seats=seats, model=model)
            for kind, seats_B, eos_E in zip(kinds, torch.split(self._taking_B, sizes), eos, strict=True)
        ]
        self._capture, self._calls = capture, 0
        self._captured: Compute | None = None  # not `_compute` itself: a cycle would keep the pool's memory

    def __call__(self, seats: Sequence[Sequence[int]]) -> Tensor:
        """Of the rows in these seats, some for each kind: what `decide` tells of them, padding behind those of a kind."""
        taking = [
            seat
            for kind, some in zip(self._kinds, seats, strict=True)
            for seat in (*some, *[self._nobody] * (kind.rows - len(some)))
        ]
        if taking != self._taking:
            self._taking_B.copy_(stage(taking, self._taking_B.device), non_blocking=True)
            self._taking = taking
        self._calls += 1
        if self._calls == OFTEN:
            self._captured = self._capture(self._compute)
        return self._compute() if self._captured is None else self._captured()

    def _compute(self) -> Tensor:
        states = [cohort.states() for cohort in self._cohorts]
        blocks = [cohort.blocks(states_BKL) for cohort, states_BKL in zip(self._cohorts, states, strict=True)]
        tokens_N, plan = assemble_blocks(blocks)
        return decide(self._cohorts, states, self._model.forward(tokens_N, plan, self._pool))


class BlockSteps:
    """The steps of all kinds that come up."""

    def __init__(self, model: Denoiser, pool: KVPool, seats: Seats) -> None:
        self._model, self._pool, self._seats = model, pool, seats
        self._capture = capturing(model.device)
        self._shape = seats.shape
        self._steps: OrderedDict[tuple[Kind, ...], BlockStep] = OrderedDict()  # the last used is last

    def __call__(self, parts: Sequence[tuple[Kind, Sequence[int]]]) -> Tensor:
        """Run the rows in these seats, at most as many of a kind as it has rows; what `decide` tells of them."""
        if self._shape != self._seats.shape:  # the tables have moved
            self._steps.clear()
            self._capture = capturing(self._model.device)  # a memory pool that has lost its last graph takes no other
            self._shape = self._seats.shape
        kinds = tuple(kind for kind, _ in parts)
        step = self._steps.pop(kinds, None) or BlockStep(kinds, self._model, self._pool, self._seats, self._capture)
        self._steps[kinds] = step
        if len(self._steps) > KEPT:
            self._steps.popitem(last=False)
        return step([seats for _, seats in parts])
