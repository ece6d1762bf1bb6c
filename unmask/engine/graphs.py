"""Steps of block forwards over buffers that stay, so that a GPU replays each as one graph: forward, decision and all.

A block forward's shapes depend on nothing but its keys (recipe, states, rows), and what it computes on lies in the device
state's tables. So the host only says which rows take part, and only when that changes. Every other forward (refreshes,
forwards that query a suffix too, prompts) is long and seldom twice of one shape: that is launched kernel by kernel.

On other devices the same code runs as a plain call; tests compare it with the packed forwards.
"""

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from weakref import WeakSet

import torch
from torch import Tensor

from unmask.context.blocks import assemble_blocks
from unmask.context.plan import ship, stage
from unmask.context.pool import KVPool
from unmask.engine.decision import DecisionBatch, DecisionKey, decide_all, reads_hidden
from unmask.engine.device_state import DeviceState
from unmask.engine.fallbacks import Fallbacks
from unmask.engine.state import RequestState
from unmask.models.denoiser import Denoiser

OFTEN = 2  # calls of a step, of which the last is captured: the one before has compiled and allocated what it needs
KEPT = 128  # graphs; rows whose settings differ from all others' make many keys, few of which come again


def graphable(row: RequestState) -> bool:
    """Whether a row's next forward is a block forward: the block alone is queried, all else is remembered.

    Of a block-causal model also one that makes the block before final. A constraint computes what it likes, which no graph
    can hold, and a sub-block that is queried alone is not the whole block.
    """
    recipe = row.recipe
    if recipe.cache not in ("dual", "block") or recipe.sub_block is not None or row.constraint is not None:
        return False
    clean, block = row.turn()
    if recipe.cache == "dual":
        return not row.refreshes
    return block is not None and block.tokens == recipe.width and (clean is None or clean.tokens == recipe.length)


def roomy(key: DecisionKey, rows: Sequence[RequestState]) -> DecisionKey:
    """The key of a step that these rows share with others: with places for more rows and pages."""
    return key._replace(rows=padded(key.rows), pages=roomed(max(len(row.pages) for row in rows)))


def roomed(pages: int) -> int:
    """Pages of the smallest step that holds rows of this many: 64, or a power of four times that.

    >>> [roomed(pages) for pages in (0, 3, 65, 257)]
    [64, 64, 256, 1024]
    """
    times = max(1, -(-pages // 64))
    return 64 * 4 ** (((times - 1).bit_length() + 1) // 2)


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
    Whatever goes wrong is raised, and leaves the thread on the stream that it came with.
    """
    if device.type != "cuda":
        return lambda compute: None
    stream, memory = _stream(device), SharedMemory(torch.cuda.graph_pool_handle)

    def capture(compute: Compute) -> Compute:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()  # what the allocator keeps for others is not the graphs' to take
        try:
            with torch.cuda.stream(stream):  # not by torch.cuda.graph, which stays on its stream where a capture fails
                made = _captured(graph, compute, memory.handle())
        except BaseException:
            memory.abandon()
            raise

        def replay() -> Tensor:
            graph.replay()
            return made

        memory.users.add(replay)
        return replay

    return capture


def _captured(graph: torch.cuda.CUDAGraph, compute: Compute, memory: tuple[int, int]) -> Tensor:
    """Capture what is computed on the current stream; its result, which each replay fills."""
    graph.capture_begin(pool=memory, capture_error_mode="thread_local")
    try:
        made = compute()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # a broken capture says so again when it ends
            graph.capture_end()
        raise
    graph.capture_end()
    return made


class SharedMemory:
    """The memory that graphs share: one handle as long as one of them lives. What has lost its last graph takes no other."""

    def __init__(self, new: Callable[[], tuple[int, int]]) -> None:
        self.users: WeakSet[Compute] = WeakSet()
        self._new = new
        self._handle: tuple[int, int] | None = None

    def handle(self) -> tuple[int, int]:
        """For the next graph."""
        if self._handle is None or not self.users:
            self._handle = self._new()
        return self._handle

    def abandon(self) -> None:
        """Whatever state a failed capture has left the handle in: the next graph gets another one."""
        self._handle = None


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that graphs are captured on: one for all, because cuBLAS keeps a workspace for each, for ever."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class BlockStep:
    """One step of rows of these keys, over buffers that stay; captured when it is sure to come up often."""

    def __init__(
        self,
        keys: Sequence[DecisionKey],
        model: Denoiser,
        pool: KVPool,
        device_state: DeviceState,
        capture: Callable[[Compute], Compute | None],
        fallbacks: Fallbacks,
    ) -> None:
        self._keys, self._model, self._pool, self._padding = keys, model, pool, device_state.padding
        sizes = [key.rows for key in keys]
        self._taking = [device_state.padding] * sum(sizes)
        self._taking_B, *eos = ship([self._taking, *(key.structure.eos_ids for key in keys)], device=model.device)
        self._batches = [
            DecisionBatch(key=key, index_B=index_B, eos_E=eos_E, device_state=device_state, model=model)
            for key, index_B, eos_E in zip(keys, torch.split(self._taking_B, sizes), eos, strict=True)
        ]
        self._capture, self._fallbacks, self._calls = capture, fallbacks, 0
        self._captured: Compute | None = None  # not `_compute` itself: a cycle would keep the pool's memory

    def __call__(self, indices: Sequence[Sequence[int]]) -> Tensor:
        """Of the rows at these indices, some for each key: their numbers, padding behind those of a key."""
        taking = [
            index
            for key, some in zip(self._keys, indices, strict=True)
            for index in (*some, *[self._padding] * (key.rows - len(some)))
        ]
        if taking != self._taking:
            self._taking_B.copy_(stage(taking, self._taking_B.device), non_blocking=True)
            self._taking = taking
        self._calls += 1
        if self._calls == OFTEN:
            try:
                self._captured = self._capture(self._compute)
            except Exception as error:  # the rows are none the worse for it: what was to be captured has not run
                self._fallbacks.note("graph", error)
        return self._compute() if self._captured is None else self._captured()

    def _compute(self) -> Tensor:
        states = [batch.states() for batch in self._batches]
        blocks = [batch.blocks(states_BKL) for batch, states_BKL in zip(self._batches, states, strict=True)]
        tokens_N, plan = assemble_blocks(blocks)
        predicted = self._model.predict(tokens_N, plan, self._pool, hidden=reads_hidden(self._batches))
        return decide_all(self._batches, states, *predicted)


class BlockSteps:
    """The steps of all keys that come up."""

    def __init__(self, model: Denoiser, pool: KVPool, device_state: DeviceState, fallbacks: Fallbacks) -> None:
        self._model, self._pool, self._device_state, self._fallbacks = model, pool, device_state, fallbacks
        self._capture = capturing(model.device)
        self._shape = device_state.shape
        self._steps: OrderedDict[tuple[DecisionKey, ...], BlockStep] = OrderedDict()  # the last used is last

    def __call__(self, parts: Sequence[tuple[DecisionKey, Sequence[int]]]) -> Tensor:
        """Run the rows at these indices, at most as many of a key as it has rows; the numbers of their decisions."""
        if self._shape != self._device_state.shape:  # the tables have moved
            self._steps.clear()
            self._shape = self._device_state.shape
        keys = tuple(key for key, _ in parts)
        step = self._steps.pop(keys, None)
        if step is None:
            step = BlockStep(keys, self._model, self._pool, self._device_state, self._capture, self._fallbacks)
        self._steps[keys] = step
        if len(self._steps) > KEPT:
            self._steps.popitem(last=False)
        return step([indices for _, indices in parts])
