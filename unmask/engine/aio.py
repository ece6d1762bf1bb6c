"""The engine's asyncio face: one thread steps, each request is a stream of its own.

    async with AsyncEngine(Engine(model)) as engine:
        async for progress in engine.stream(request):
            print(progress.text, end="")

A client that leaves (its task is cancelled, its generator closed) frees what its request held.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple, Self

from unmask.engine.engine import Engine
from unmask.engine.health import Health, Trouble
from unmask.engine.request import Completion, Progress, Request
from unmask.models.follow import OutOfStep

FAILURES = 8  # forwards in a row that raise, and the engine is given up
GRACE = 5.0  # seconds that closing waits for a forward


class _Listener(NamedTuple):
    """Where a request's progress goes: the queue, and the loop that may touch it."""

    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[Progress | Exception]

    def hand(self, item: Progress | Exception) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.queue.put_nowait, item)


class AsyncEngine:
    """Steps an engine in a thread of its own while there are requests; nothing else may step it."""

    def __init__(
        self,
        engine: Engine,
        observer: Callable[[int, float], None] = lambda rows, seconds: None,
        *,
        forward_seconds: float = math.inf,
        first_forward_seconds: float = math.inf,
    ) -> None:
        """`observer` is called in the thread after each step, with the number of its rows and the seconds it took.

        A forward of more than `forward_seconds` counts as stuck, the first one, which may compile, by its own limit.
        """
        self.engine, self._observer = engine, observer
        self._health = Health(forward_seconds, first_forward_seconds)
        self._listeners: dict[int, _Listener] = {}
        self._lock = threading.Lock()  # around the listeners, and a number's birth: no progress comes before its listener
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="unmask-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its thread takes requests."""
        return self._thread.is_alive() and not self._closed

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong with its forwards, if anything is."""
        return self._health.trouble(time.monotonic())

    async def stream(self, request: Request, *, watch: bool = False) -> AsyncIterator[Progress]:
        """The request's progress; the last one has its completion.

        Raises ConfigError or RequestError before anything is yielded where the request cannot be answered
        (`engine.check` finds out without a stream), LogitsError where its logits are no numbers, and what a forward raised
        where one failed.
        """
        listener = _Listener(asyncio.get_running_loop(), asyncio.Queue())
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            number = self.engine.submit(request, watch=watch)
            self._listeners[number] = listener
        self._wake.set()
        try:
            while True:
                item = await listener.queue.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.completion is not None:
                    return
        finally:
            with self._lock:
                self._listeners.pop(number, None)
            self.engine.abort(number)

    async def complete(self, request: Request) -> Completion:
        """The request's completion."""
        async with aclosing(self.stream(request)) as stream:  # type: ignore[type-var]
            async for progress in stream:
                if progress.completion is not None:
                    return progress.completion
        raise AssertionError("a stream ends with a completion")

    async def close(self) -> None:
        """End the thread after its forward; clients that still wait get a RuntimeError, also where the forward does not end."""
        with self._lock:
            self._closed = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join, GRACE)
        self._fail(RuntimeError("the engine is closed"), self._open_requests())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def _run(self) -> None:
        try:
            self._step_while_open()
        finally:  # also where it died of what is no Exception: no client must wait for a thread that is gone
            with self._lock:
                self._closed = True
            self._fail(RuntimeError("the engine is closed"), self._open_requests())

    def _step_while_open(self) -> None:
        failures = 0  # in a row
        while not self._closed:
            began = time.perf_counter()
            self._health.begin(time.monotonic())
            try:
                made = self.engine.step()
            except OutOfStep as error:
                self._fail(error, self._open_requests())
                return
            except Exception as error:
                # A failed forward (out of memory, for one) ends its own requests and nothing else. But where nothing
                # succeeds any more the device itself has failed, and what supervises the process must see it.
                numbers = self._open_requests()
                self._fail(error, [number for number in numbers if number not in self.engine] or numbers)
                failures += 1
                self._health.end(time.monotonic(), rows=0, broken=0, raised=True)
                if failures == FAILURES:
                    return
                continue
            self._health.end(time.monotonic(), rows=len(made), broken=sum(one.error is not None for one in made))
            if made:
                failures = 0
                self._observer(len(made), time.perf_counter() - began)
            for progress in made:
                with self._lock:
                    listener = self._listeners.get(progress.number)
                if listener is not None:
                    listener.hand(progress.error or progress)
            if not self.engine.busy:
                self._wake.wait()
                self._wake.clear()

    def _open_requests(self) -> list[int]:
        """The requests that have a listener."""
        with self._lock:
            return list(self._listeners)

    def _fail(self, error: Exception, numbers: Sequence[int]) -> None:
        """End these requests with an error."""
        for number in numbers:
            with self._lock:
                listener = self._listeners.pop(number, None)
            self.engine.abort(number)
            if listener is not None:
                listener.hand(error)
