"""What the endpoints do, apart from HTTP: accept a request, follow it through the engine, count it."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import HTTPException
from starlette.requests import Request as HTTPRequest

from unmask.engine.aio import AsyncEngine
from unmask.engine.engine import Engine
from unmask.engine.generate import make_request
from unmask.engine.request import Completion, Owner, Progress, Request
from unmask.errors import LogitsError
from unmask.serve.admission import Admission
from unmask.serve.errors import TimeLimitExceeded
from unmask.serve.lifetime import deadline, while_connected
from unmask.serve.log import LOG, LogEntry
from unmask.serve.merge import MergedStreams
from unmask.serve.metrics import Metrics
from unmask.serve.options import Options
from unmask.serve.protocol import CLIENT_LEFT, Body, Diffusion, Health, ModelInfo
from unmask.serve.requests import ApiRequest, choose, engine_requests
from unmask.serve.stream import EventStream
from unmask.serve.structure import language

_WATCH = 1.0  # seconds between two looks at the engine's health


class Service:
    """One engine as the endpoints see it."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self.model, self.options, self.metrics = engine.model, options, Metrics()
        self.metrics.model(engine.model)
        self.model_info = ModelInfo(id=options.name or engine.model.name, created=int(time.time()))
        self.admission = Admission(options.queue)
        self.closing = False  # whether the server is about to end
        self._numbers = itertools.count()  # of requests
        self._engine = engine
        self._async_engine: AsyncEngine | None = None

    def warm_up(self) -> None:
        """On a GPU, capture what requests without a method of their own will replay, greedy and sampled."""
        if not self.model.replayable:
            return
        token, method = int(self.model.spec.mask_id == 0), choose(Diffusion(), self.options)
        asked = [make_request(self.model, [token], method=method, temperature=heat) for heat in (0.0, 1.0)]
        self._engine.warm_up(asked)

    def start(self, async_engine: AsyncEngine) -> None:
        """Begin to take requests."""
        self._async_engine = async_engine

    @property
    def health(self) -> Health:
        load = self._engine.load
        if self.closing or self._async_engine is None:
            status: Any = "closing" if self.closing else "starting"
        elif not self._async_engine.alive:
            status = "failed"
        else:
            status = self._async_engine.trouble or ("busy" if self.admission.is_full(load.running) else "ready")
        return Health(status=status, ready=status == "ready", waiting=load.waiting, running=load.running)

    @property
    def shares_prefixes(self) -> bool:
        """Whether requests that begin alike are better sent here than elsewhere."""
        return self._engine.shares_prefixes

    def measure(self) -> None:
        """Set the gauges of the engine's load."""
        self.metrics.load(self._engine.load)

    def observe(self, rows: int, seconds: float) -> None:
        """Count a step of the engine; called from its thread."""
        self.metrics.forward(rows, seconds)
        self.measure()

    def check_model(self, name: str | None) -> None:
        """Raises HTTPException (404) for any model but the one that is served."""
        if name not in (None, self.model_info.id):
            raise HTTPException(404, f"there is no model '{name}' here: this server has '{self.model_info.id}'")

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Say in the log, until the block is left, when health turns and when it is back."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self) -> None:
        before = None
        while self._async_engine is not None:
            trouble = self._async_engine.trouble if self._async_engine.alive else "failed"
            if trouble != before:
                LOG.log(logging.ERROR if trouble else logging.WARNING, f"the engine is {trouble or 'well again'}")
            before = trouble
            await asyncio.sleep(_WATCH)

    async def accept(self, body: Body, log: LogEntry, *, key: str, cache_scope: str) -> ApiRequest:
        """Check a request and admit it; nothing runs yet. Raises UnmaskError, HTTPException or QueueFull."""
        self.check_model(body.model)
        if self._async_engine is None or self.closing:
            raise HTTPException(503, "the server is closing", headers={"retry-after": "1"})
        # In a thread: encoding a long prompt takes a while, in which the streams of other requests go on.
        owner = Owner(key, str(next(self._numbers)))
        choices = await asyncio.to_thread(self._checked, body, owner, cache_scope)
        request = ApiRequest(
            body=body,
            model=self.model_info.id,
            tokenizer=self.model.tokenizer,
            choices=choices,
            prompt_tokens=sum(choice.given_tokens for choice in choices[:: body.n or 1]),
            log=log,
        )
        self.admission.admit(request, self._engine.load.running)
        return request

    def _checked(self, body: Body, owner: Owner, cache_scope: str) -> list[Request]:
        """The engine's requests for a body. Raises UnmaskError where one can never be answered here."""
        began, asked = time.perf_counter(), language(body)
        choices = engine_requests(body, self.model, self.options, language=asked, owner=owner, cache_scope=cache_scope)
        if asked is not None:
            self.metrics.grammar(asked.kind, time.perf_counter() - began)
        for choice in choices[:: body.n or 1]:
            self._engine.check(choice)
        return choices

    async def complete(self, request: ApiRequest, http: HTTPRequest) -> list[Completion]:
        """The completions of all choices. A client that leaves frees what they hold.

        Raises LogitsError, what a forward raised, TimeLimitExceeded, and ClientDisconnect.
        """
        completions = await while_connected(http, self._completions(request))
        self._count(request, completions)
        return completions

    async def events(self, request: ApiRequest) -> AsyncGenerator[str, None]:
        """Server-sent events, from the first to [DONE]. A client that leaves frees what its choices hold."""
        stream, completions = EventStream(request, self.model), dict[int, Completion]()
        request.log.outcome = CLIENT_LEFT  # until the stream has come to its end
        try:
            for event in stream.opening():
                yield event
            async with aclosing(self._progress(request, watch=stream.watch)) as progress:
                async for index, item in progress:
                    for event in stream.events_for(index, item):
                        yield event
                    if item.completion is not None:
                        completions[index] = item.completion
        except Exception as error:
            # The status was sent long ago: the stream says what happened, and ends without [DONE].
            late, said = isinstance(error, TimeLimitExceeded), isinstance(error, TimeLimitExceeded | LogitsError)
            request.log.outcome = 504 if late else 500
            if not said:
                request.log.write_error("a stream failed")
            yield stream.failure(str(error) if said else "the server failed; its log says why")
            return
        ordered = [completions[index] for index in range(len(request.choices))]
        self._count(request, ordered)
        request.log.outcome = 200
        for event in stream.closing(ordered):
            yield event

    async def _completions(self, request: ApiRequest) -> list[Completion]:
        completions: dict[int, Completion] = {}
        async with aclosing(self._progress(request)) as progress:
            async for index, item in progress:
                if item.completion is not None:
                    completions[index] = item.completion
        return [completions[index] for index in range(len(request.choices))]

    async def _progress(
        self,
        request: ApiRequest,
        *,
        watch: bool = False,
    ) -> AsyncGenerator[tuple[int, Progress], None]:
        """The progress of all choices as it comes, each with its choice's index; closing aborts what still runs.

        Raises what a forward raised, and TimeLimitExceeded.
        """
        assert self._async_engine is not None
        limit = self.options.seconds
        left = request.began + limit - time.perf_counter()
        without_text = set(range(len(request.choices)))
        streams = [self._async_engine.stream(choice, watch=watch) for choice in request.choices]
        try:
            async with MergedStreams(streams) as merged:
                with deadline(left, lambda: merged.fail(TimeLimitExceeded(limit))), self.admission.held(request):
                    async for index, item in merged:
                        if item.text and index in without_text:
                            without_text.discard(index)
                            self.metrics.first_text(time.perf_counter() - request.began)
                        if item.completion is not None:
                            self.admission.complete(request)
                        yield index, item
        except LogitsError as error:
            self.metrics.broken()
            LOG.error(str(error), extra={"about": {"request_id": request.log.request_id}})
            raise
        finally:
            self.measure()

    def _count(self, request: ApiRequest, completions: Sequence[Completion]) -> None:
        """Count a request whose choices are all complete, in the metrics and in its log entry."""
        self.metrics.answered(request.prompt_tokens, completions)
        for completion in completions:
            self.admission.took(completion.seconds)
        request.log.decoding = request.choices[0].method.name
        request.log.usage = request.usage(completions)
