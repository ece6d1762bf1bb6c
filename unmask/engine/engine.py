"""The engine: many requests at once, each joining when there is memory and leaving as soon as it is done.

    engine = Engine(model)
    number = engine.submit(request)              # any thread
    while engine.busy:
        for progress in engine.step():           # what a forward made of each; one thread
            print(progress.number, progress.text, progress.completion)

Where the device computes beside the host, a step finishes the forward that the step before has launched and launches the
next; the slow work on what has come of it (text, drafts) is done meanwhile. Where all rows take the same step of their blocks
again, that is launched before the one on its way is read, or at least before it is committed. On a CPU a forward is done when
it is launched.

A request's answer, forwards and end are those of `simple.decode` for it alone: which rows share a forward is a matter of
time and of nothing else (but the rounding of 16-bit matrix products on a GPU: docs/production.md).
"""

import contextlib
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch

from unmask.context.pool import PAGE, pages_for
from unmask.decode.settings import whole
from unmask.engine.completion import complete
from unmask.engine.entry import Entry, Finished, no_numbers, progress, settled
from unmask.engine.pending import PendingStep, idle
from unmask.engine.request import Completion, Observer, Progress, Request, StepRecord
from unmask.engine.room import room
from unmask.engine.runner import Runner
from unmask.engine.scheduler import Held, Row, Turns, admit
from unmask.engine.state import RequestState
from unmask.errors import LogitsError, PromptTooLong, UnmaskError
from unmask.models.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the engine may use.

    Attributes:
        memory: bytes of key/value memory; None: enough for `rows` of the model's longest, but at most 1 GiB, or on a GPU
            what a forward of full size leaves (engine/room.py).
        rows: requests that are decoded at once; the others wait.
        tokens: query tokens of a forward, drafts included, and so of the longest forward of one row; None: 8192 on a GPU, where
            a forward of many rows takes little longer than of one, and 1024 elsewhere, or the model's longest.
        share: of them for all rows of one request together, beside its first; None: a quarter.
        refresh: of them for refreshes and prompts in one step, beside the first, which the other rows' streams wait for; None:
            2048 on a GPU, and all elsewhere.
        prefix_cache: whether requests that begin alike share keys and values, where the model's attention is block-causal.
    """

    memory: int | None = None
    rows: int = 64
    tokens: int | None = None
    share: int | None = None
    refresh: int | None = None
    prefix_cache: bool = True

    def __post_init__(self) -> None:
        whole("memory", self.memory, 0)
        whole("rows", self.rows, 1, required=True)
        whole("tokens", self.tokens, 1)
        whole("share", self.share, 1)
        whole("refresh", self.refresh, 1)

    @classmethod
    def fitting(
        cls, model: Denoiser, requests: Sequence[Request], *, rows: int | None = None, tokens: int | None = None
    ) -> Self:
        """Enough for that many of these requests at once (None: all of them), whichever they are, and no more memory.

        `tokens` is the budget of a forward where every request fits into it (None: all of them in one forward), all of it for
        refreshes too: nothing is streamed.

        Raises RequestError or ConfigError where one cannot be answered.
        """
        states = [RequestState.start(request, model) for request in requests]
        rows = rows or max(1, len(states))
        pages = sorted(pages_for(state.slots) for state in states)[-rows:]
        most = sorted((state.most_tokens for state in states), reverse=True)[:rows] or [1]
        budget = sum(most) if tokens is None else max(tokens, most[0])
        return cls(rows=rows, memory=sum(pages) * model.page_bytes, tokens=budget, refresh=budget)

    def budget(self, model: Denoiser) -> int:
        """Query tokens of a forward of this model."""
        return self.tokens or (8192 if model.device.type == "cuda" else max(1024, model.spec.max_length))

    def refreshes(self, model: Denoiser) -> int:
        """Query tokens of refreshes in one step of this model."""
        return self.refresh or (2048 if model.device.type == "cuda" else self.budget(model))

    def pages(self, model: Denoiser) -> int:
        """Pages of key/value memory for this model."""
        if self.memory is not None:
            return self.memory // model.page_bytes
        most = 2**30
        if model.device.type == "cuda":
            most = room(model, self.budget(model))
        return min(self.rows * pages_for(model.spec.max_length), most // model.page_bytes)


class Load(NamedTuple):
    """How busy an engine is."""

    waiting: int
    running: int
    pages: int  # lent to running requests
    all_pages: int
    kept_pages: int = 0  # lent to none, and kept for requests that begin alike
    fallbacks: Mapping[str, int] = {}  # what was given up for its plain form, by kind (engine/fallbacks.py)


class Engine:
    """`submit` and `abort` from any thread; `step` from one."""

    def __init__(self, model: Denoiser, limits: Limits | None = None, *, ahead: bool | None = None) -> None:
        """`ahead`: whether a forward is launched before the host has dealt with the last; None: unless it is the CPU's."""
        self.model, self.limits = model, limits or Limits()
        self._ahead = model.device.type != "cpu" if ahead is None else ahead
        limits = self.limits
        self.tokens = limits.budget(model)
        share = limits.share or max(1, self.tokens // 4)
        self._turns = Turns(budget=self.tokens, share=share, refresh=limits.refreshes(model))
        self._runner = Runner(model, pages=limits.pages(model), rows=limits.rows, shared=limits.prefix_cache)
        self._numbers = itertools.count()
        # Both longest waiting first: for memory, or for a forward.
        self._waiting: dict[int, Entry] = {}
        self._running: dict[int, Entry] = {}
        # The second was launched before the first was read, where the same rows take the same step once more.
        self._pending: tuple[list[Entry], PendingStep | Exception] | None = None
        self._second: tuple[list[Entry], PendingStep | Exception] | None = None
        self._failed: Exception | None = None  # of requests that are gone, beside the pending step
        self._lock = threading.Lock()  # around both and what the runner lends; never held during a forward

    @property
    def busy(self) -> bool:
        """Whether a request waits or runs, or a forward is yet to be finished."""
        return bool(self._waiting or self._running or self._pending is not None or self._failed is not None)

    @property
    def shares_prefixes(self) -> bool:
        """Whether requests that begin alike share keys and values here."""
        return self.limits.prefix_cache and self.model.spec.block is not None

    @property
    def load(self) -> Load:
        """How busy it is now."""
        with self._lock:
            pages, prefixes = self._runner.pool.pages, self._runner.prefixes
            counts: dict[str, int] = {str(part): number for part, number in self._runner.fallbacks.counts.items()}
            return Load(len(self._waiting), len(self._running), pages - prefixes.free, pages, prefixes.kept, counts)

    def check(self, request: Request) -> RequestState:
        """A request's state before its first forward.

        Raises ConfigError or RequestError where it can never be answered here, by its prompt, its method or the limits.
        """
        state = RequestState.start(request, self.model)
        if pages_for(state.slots) > self._runner.pool.pages:
            raise PromptTooLong(
                f"the request needs key/value memory for {state.slots} tokens, and the engine's holds "
                f"{self._runner.pool.pages * PAGE}: shorten it, draft less, use cache=none or give the engine more memory"
            )
        state.room = self.tokens
        if state.least_tokens > state.room:
            raise PromptTooLong(
                f"the request needs forwards of up to {state.least_tokens} tokens, and the engine's hold "
                f"{self.tokens}: shorten it, draft less or let the engine's forwards hold more"
            )
        return state

    def submit(self, request: Request, *, watch: bool = False) -> int:
        """Take in a request; its number is that of its Progress. `watch` asks for records and drafts too.

        Raises what `check` raises.
        """
        state = self.check(request)
        self._runner.prepare(state)
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = Entry(number=number, state=state, watch=watch)
        return number

    def warm_up(self, requests: Sequence[Request]) -> None:
        """Capture what requests like these will replay on a GPU, before the first client waits for it.

        Raises what `check` raises.
        """
        self._runner.warm_up([self.check(request) for request in requests])

    def __contains__(self, number: int) -> bool:
        """Whether a request waits or runs."""
        return number in self._waiting or number in self._running

    def abort(self, number: int) -> None:
        """Forget a request and free what it holds, at once; nothing where it is done already."""
        with self._lock:
            self._waiting.pop(number, None)
            self._free(number)

    def step(self) -> list[Progress]:
        """Finish the pending forward and launch the next; what the finished one made of each of its requests.

        Empty where all of them have been aborted, and at first where forwards are launched ahead. Raises what a forward
        raised, and its requests are gone.
        """
        made = [progress(*finished) for finished in self._turn()]
        with self._lock:  # the others have been aborted
            return [one for one in made if one.completion or one.error or one.number in self._running]

    def generate(self, requests: Sequence[Request], observer: Observer | None = None) -> list[Completion]:
        """Answer these requests and no others; completions in their order. `observer` is called once per forward.

        Raises ConfigError or RequestError before the first forward, and LogitsError when all others are answered.
        """
        places: dict[int, int] = {}  # number -> place among the requests
        try:
            for place, request in enumerate(requests):
                places[self.submit(request, watch=observer is not None)] = place
        except UnmaskError:
            for number in places:
                self.abort(number)
            raise
        done: dict[int, Completion] = {}
        broken: dict[int, str] = {}
        forwards = itertools.count()
        while self.busy:
            finished = [finished for finished in self._turn() if finished.entry.number in places]
            records = {places[entry.number]: record for entry, record, _ in finished if record is not None}
            if observer is not None and records:
                observer(StepRecord.of_batch([*records.values()], forward=next(forwards), rows=[*records]))
            over = {places[entry.number]: entry.state for entry, _, over in finished if over}
            done |= {place: complete(state) for place, state in over.items() if not state.broken}
            broken |= {place: no_numbers(state, place) for place, state in over.items() if state.broken}
        if broken:
            raise LogitsError(broken[min(broken)], [done.get(place) for place in range(len(requests))])
        return [done[place] for place in range(len(requests))]

    def _turn(self) -> list[Finished]:
        """Finish a forward and launch one; the order is the device's."""
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        complete = self._take_complete()
        if self._ahead:
            self._repeat(lambda step: step.likely)  # before anything is read
            self._repeat(lambda step: step.goes_on)  # before anything is committed
            finished = self._finish()
            if self._pending is None:
                self._launch()
            return [*complete, *finished]
        self._launch()
        return [*complete, *self._finish()]

    def _repeat(self, goes_on: Callable[[PendingStep], bool]) -> None:
        """Launch the pending step once more where its rows go on, and nothing else could run: the device need not wait."""
        if self._pending is None or self._second is not None:
            return
        entries, step = self._pending
        with self._lock:
            others = len(entries) < len(self._running) or (self._waiting and len(self._running) < self.limits.rows)
            gone = any(entry.number not in self._running or idle(entry.state) for entry in entries)
        if isinstance(step, Exception) or step.again is None or others or gone or not goes_on(step):
            return
        with contextlib.suppress(Exception):  # nothing has happened to the rows: what is wrong is told by the next launch
            self._second = entries, self._runner.again(step)

    def _take_complete(self) -> list[Finished]:
        """The waiting requests of which nothing is open: canvases without holes."""
        with self._lock:
            numbers = [number for number, entry in self._waiting.items() if entry.state.ended is not None]
            return [Finished(self._waiting.pop(number), None, True) for number in numbers]

    def _finish(self) -> list[Finished]:
        """What came of the pending forward's requests that have not been aborted."""
        if self._pending is None:
            return []
        (entries, step), self._pending, self._second = self._pending, self._second, None
        try:
            if isinstance(step, Exception):
                raise step
            taking = [not (step.ahead and idle(entry.state)) for entry in entries]
            records = self._runner.finish(step)
        except Exception as error:
            raise self._lost(entries, error) from None
        with self._lock:
            kept = [
                (entry, record)
                for entry, record, takes in zip(entries, records, taking, strict=True)
                if takes and entry.number in self._running
            ]
        finished = [settled(entry, record) for entry, record in kept]
        with self._lock:
            for entry, _, over in finished:
                if entry.number in self._running and not entry.state.broken:
                    self._runner.publish(entry.state)
                if over:
                    self._free(entry.number)
        return finished

    def _launch(self) -> None:
        """Put the requests that can run into a forward."""
        with self._lock:
            self._join()
            line = list(self._running.values())
            states = [entry.state for entry in line]
            turns = self._turns.pick([Row(row.request.owner, row.tokens, row.recomputes) for row in states])
            picked = [line[index] for index in turns]
            for entry in picked:  # to the end of the line
                self._running[entry.number] = self._running.pop(entry.number)
        if not picked:
            return
        try:
            step = self._runner.launch([entry.state for entry in picked], [entry.watch for entry in picked])
        except Exception as error:  # raised when it should finish, as a device's own errors are: what has finished comes first
            self._pending = (picked, error) if not self._smaller(picked, error) else None
            return
        taking = {id(row) for row in step.rows}
        self._pending = [entry for entry in picked if id(entry.state) in taking], step
        if step.failed is not None:
            others = [entry for entry in picked if id(entry.state) not in taking]
            if not self._smaller(others, step.failed):
                self._failed = self._lost(others, step.failed)

    def _smaller(self, entries: Sequence[Entry], error: Exception) -> bool:
        """Whether these can be tried again in smaller forwards: what they were given did not fit into memory."""
        if not isinstance(error, torch.OutOfMemoryError) or len(entries) < 2:
            return False
        self._runner.fallbacks.note("memory", error)
        self._turns.narrow(sum(entry.state.tokens for entry in entries))
        return True

    def _lost(self, entries: Sequence[Entry], error: Exception) -> Exception:
        """These requests are gone with the error, which is to be raised."""
        for entry in entries:
            self.abort(entry.number)
        return error

    def _join(self) -> None:
        """Let in the waiting requests that find memory, but none that begins with what a running one is computing now."""
        prefixes, held = self._runner.prefixes, None
        while (rows := self.limits.rows - len(self._running)) and self._waiting:
            line = [entry for entry in self._waiting.values() if not prefixes.waits(entry.state.lease)]
            wanted = [Row(entry.state.request.owner, prefixes.needs(entry.state.lease)) for entry in line]
            held = held or Held(Row(entry.state.request.owner, len(entry.state.pages)) for entry in self._running.values())
            place = admit(wanted, held, pages=prefixes.free, rows=rows)
            if place is None:
                return
            entry = self._running[line[place].number] = self._waiting.pop(line[place].number)
            self._runner.allocate(entry.state)
            held.add(Row(wanted[place].owner, len(entry.state.pages)))

    def _free(self, number: int) -> None:
        # Safe while its forward is pending: only `step` lends to another, and it finishes that forward first.
        entry = self._running.pop(number, None)
        if entry is not None:
            self._runner.free(entry.state)
