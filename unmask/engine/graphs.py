"""Functions over tensors that stay, launched as they are at first and then replayed as CUDA graphs.

A graph spares the host the launching: one launch for hundreds. What it computes on must lie where it lay when it was captured.
On other devices the same function runs as a plain call; so it does where it could not be captured, and nothing is lost.
"""

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import torch

from unmask.engine.fallbacks import Fallbacks

OFTEN = 2  # calls of a step, of which the last is captured: the one before has compiled and allocated what it needs
KEPT = 256  # graphs; rows whose methods are built like no others' make many, few of which come again

Compute = Callable[[], Any]
Made = TypeVar("Made", bound=Compute)


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

        def replay() -> Any:
            graph.replay()
            return made

        memory.users.add(replay)
        return replay

    return capture


def _captured(graph: torch.cuda.CUDAGraph, compute: Compute, memory: Any) -> Any:
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

    def __init__(self, new: Callable[[], Any]) -> None:
        self.users: WeakSet[Compute] = WeakSet()
        self._new = new
        self._handle: Any = None

    def handle(self) -> Any:
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


class Replays:
    """Such functions by their keys; the last used are kept, as long as what they compute on stays where it is."""

    def __init__(self, device: torch.device, fallbacks: Fallbacks, where: Callable[[], Hashable]) -> None:
        """`where` says where that is: when it says something else all are forgotten."""
        self._device, self._fallbacks = device, fallbacks
        self._capture = capturing(device)
        self._where, self._place = where, where()
        self._kept: OrderedDict[Hashable, Replay[Any]] = OrderedDict()  # the last used is last

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def kinds(self) -> list[Hashable]:
        """The keys, the last used last."""
        return list(self._kept)

    def get(self, key: Hashable, make: Callable[[], Made]) -> "Replay[Made]":
        """The function of this key, made where there is none. Another key's may be gone after that, but not when it runs."""
        if (place := self._where()) != self._place:
            self._kept.clear()
            self._place = place
        found = self._kept.pop(key, None)
        if found is None:
            found = Replay(make(), self._capture, self._fallbacks)
        self._kept[key] = found
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found


class Replay(Generic[Made]):
    """One of them. It is captured when it is sure to come up often."""

    def __init__(self, compute: Made, capture: Callable[[Compute], Compute | None], fallbacks: Fallbacks) -> None:
        self.compute, self._capture, self._fallbacks = compute, capture, fallbacks
        self._calls = 0
        self.captured: Compute | None = None

    def __call__(self) -> Any:
        self._calls += 1
        if self._calls == OFTEN:
            try:
                self.captured = self._capture(self.compute)
            except Exception as error:  # the rows are none the worse for it: what was to be captured has not run
                self._fallbacks.note("graph", error)
        return self.compute() if self.captured is None else self.captured()
