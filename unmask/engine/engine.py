"""The engine: many requests at once, each joining when there is room and leaving as soon as it is done.

    engine = Engine(model)
    number = engine.submit(request)              # any thread
    while engine.busy:
        for progress in engine.step():           # what a forward made of each; one thread
            print(progress.number, progress.text, progress.completion)

Where the device computes beside the host, a step lands the forward that the step before has launched and launches the next;
the slow work on what has landed (text, drafts) is done meanwhile. On a CPU a forward is done when it is launched.

A request's answer, forwards and end are those of `simple.decode` for it alone: which rows share a forward is a matter of
time and of nothing else.
"""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from unmask.context.pool import PAGE, pages_for
from unmask.engine.request import Completion, Draft, Progress, Request, StepRecord
from unmask.engine.row import Row
from unmask.engine.runner import Flight, Runner
from unmask.engine.scheduler import admit, pick
from unmask.errors import PromptTooLong, UnmaskError
from unmask.methods.method import whole
from unmask.models.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the engine may use.

    Attributes:
        memory: bytes of key/value memory; None: enough for `rows` of the model's longest, but at most 1 GiB, or half of
            what is free on a GPU.
        rows: requests that are decoded at once; the others wait.
        tokens: query tokens of a forward, drafts included.
    """

    memory: int | None = None
    rows: int = 64
    tokens: int = 8192

    def __post_init__(self) -> None:
        whole("memory", self.memory, 0)
        whole("rows", self.rows, 1, required=True)
        whole("tokens", self.tokens, 1, required=True)

    def pages(self, model: Denoiser) -> int:
        """Pages of key/value memory for this model."""
        if self.memory is not None:
            return self.memory // model.page_bytes
        most = 2**30
        if model.device.type == "cuda":
            most = torch.cuda.mem_get_info(model.device)[0] // 2
        return min(self.rows * pages_for(model.spec.max_length), most // model.page_bytes)


class Load(NamedTuple):
    """How busy an engine is."""

    waiting: int
    running: int
    pages: int  # lent to running requests
    all_pages: int


@dataclass(kw_only=True, eq=False)
class _Live:
    """A request in the engine."""

    number: int
    row: Row
    watch: bool
    told: str = ""  # the text handed out so far


class Engine:
    """`submit` and `abort` from any thread; `step` from one."""

    def __init__(self, model: Denoiser, limits: Limits | None = None, *, ahead: bool | None = None) -> None:
        """`ahead`: whether a forward is launched before it is told what came of the last; None: unless it is the CPU's."""
        self.model, self.limits = model, limits or Limits()
        self._ahead = model.device.type != "cpu" if ahead is None else ahead
        self._runner = Runner(model, pages=self.limits.pages(model), rows=self.limits.rows)
        self._numbers = itertools.count()
        # Both longest waiting first: for memory, or for a forward.
        self._waiting: dict[int, _Live] = {}
        self._running: dict[int, _Live] = {}
        self._air: tuple[list[_Live], Flight | Exception] | None = None
        self._lock = threading.Lock()  # around both and what the runner lends; never held during a forward

    @property
    def busy(self) -> bool:
        """Whether anybody waits or runs, or a forward is yet to land."""
        return bool(self._waiting or self._running or self._air is not None)

    @property
    def load(self) -> Load:
        with self._lock:
            lent = self._runner.pool.pages - self._runner.pool.free
            return Load(len(self._waiting), len(self._running), lent, self._runner.pool.pages)

    def check(self, request: Request) -> Row:
        """A request's row before its first forward.

        Raises ConfigError or RequestError where it can never be answered here, by its prompt, its method or the limits.
        """
        row = Row.start(request, self.model)
        if pages_for(row.slots) > self._runner.pool.pages:
            raise PromptTooLong(
                f"the request needs key/value memory for {row.slots} tokens, and the engine's holds "
                f"{self._runner.pool.pages * PAGE}: shorten it, draft less, use cache=none or give the engine more memory"
            )
        if row.most_tokens > self.limits.tokens:
            raise PromptTooLong(
                f"the request needs forwards of up to {row.most_tokens} tokens, and the engine's hold "
                f"{self.limits.tokens}: shorten it, draft less or let the engine's forwards hold more"
            )
        return row

    def submit(self, request: Request, *, watch: bool = False) -> int:
        """Take in a request; its number is that of its Progress. `watch` asks for records and drafts too.

        Raises what `check` raises.
        """
        row = self.check(request)
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = _Live(number=number, row=row, watch=watch)
        return number

    def __contains__(self, number: int) -> bool:
        """Whether a request waits or runs."""
        return number in self._waiting or number in self._running

    def abort(self, number: int) -> None:
        """Forget a request and free what it holds, at once; nothing where it is done already."""
        with self._lock:
            self._waiting.pop(number, None)
            self._free(number)

    def step(self) -> list[Progress]:
        """Land the forward in the air and launch the next; what the landed one made of each of its requests.

        Empty where all of them have been aborted, and at first where forwards are launched ahead. Raises what a forward
        raised, and its requests are gone.
        """
        if self._ahead:
            landed = self._land()
            self._launch()
        else:
            self._launch()
            landed = self._land()
        made = [_progress(live, record, over) for live, record, over in landed]
        with self._lock:  # the others have been aborted
            return [progress for progress in made if progress.completion is not None or progress.number in self._running]

    def _land(self) -> list[tuple[_Live, StepRecord | None, bool]]:
        """What came of those in the air who are still wanted, and whether that was their last."""
        if self._air is None:
            return []
        (lives, flight), self._air = self._air, None
        try:
            if isinstance(flight, Exception):
                raise flight
            records = self._runner.land(flight)
        except Exception:
            for live in lives:
                self.abort(live.number)
            raise
        with self._lock:
            wanted = [pair for pair in zip(lives, records, strict=True) if pair[0].number in self._running]
        landed = [(live, record, live.row.settle()) for live, record in wanted]
        with self._lock:
            for live, _, over in landed:
                if over:
                    self._free(live.number)
        return landed

    def _launch(self) -> None:
        """Put those who can run into the air."""
        with self._lock:
            self._join()
            line = list(self._running.values())
            picked = [line[index] for index in pick([live.row.tokens for live in line], budget=self.limits.tokens)]
            for live in picked:  # to the end of the line
                self._running[live.number] = self._running.pop(live.number)
        if not picked:
            return
        try:
            flight = self._runner.launch([live.row for live in picked], [live.watch for live in picked])
        except Exception as error:  # told when it should land, as a device tells its own: what has landed now comes first
            self._air = picked, error
        else:
            self._air = picked, flight

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer these requests and nobody else's; completions in their order. Raises before the first forward."""
        numbers: list[int] = []
        try:
            for request in requests:
                numbers.append(self.submit(request))
        except UnmaskError:
            for number in numbers:
                self.abort(number)
            raise
        done: dict[int, Completion] = {}
        while self.busy:
            done |= {progress.number: progress.completion for progress in self.step() if progress.completion is not None}
        return [done[number] for number in numbers]

    def _join(self) -> None:
        """Let those in who find room."""
        wanted = [pages_for(live.row.slots) for live in self._waiting.values()]
        joining = admit(wanted, free=self._runner.pool.free, rows=self.limits.rows - len(self._running))
        for number in list(self._waiting)[:joining]:
            live = self._running[number] = self._waiting.pop(number)
            self._runner.seat(live.row)

    def _free(self, number: int) -> None:
        # Safe while it is in the air: only `step` seats anybody, and it lands first.
        live = self._running.pop(number, None)
        if live is not None:
            self._runner.free(live.row)


def _progress(live: _Live, record: StepRecord | None, over: bool) -> Progress:
    """What a forward made of one request, whose row has settled since."""
    row = live.row
    completion = row.complete() if over else None
    text = row.settled() if completion is None else completion.text
    fresh = text[len(live.told) :]
    live.told = text
    draft = None if record is None or completion is not None else _draft(live, record)
    return Progress(number=live.number, text=fresh, completion=completion, record=record, draft=draft)


def _draft(live: _Live, record: StepRecord) -> Draft | None:
    """The guess at what is not settled yet of the forward's block; None where nothing of it is open."""
    row, begin = live.row, record.start[0]
    tokens = row.canvas.tokens[: begin + row.recipe.length]
    places = [place for place in range(begin, len(tokens)) if tokens[place] == row.canvas.mask_id]
    for place in places:
        tokens[place] = record.candidate[0][place - begin]
    prompt = row.canvas.prompt
    text = row.read(tokens[prompt:]).text
    if not places:
        return None
    return Draft(
        start=len(live.told),
        text=text[len(live.told) :],
        masked=[place - prompt for place in places if place - prompt < row.wanted],
        forward=record.forward,
    )
