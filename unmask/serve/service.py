"""What the endpoints do, apart from HTTP: take a request in, follow it in the engine, count it, refuse what is too much."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from weakref import WeakKeyDictionary

from fastapi import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest

from unmask.engine.aio import AsyncEngine
from unmask.engine.engine import Engine
from unmask.engine.request import Completion, Progress
from unmask.serve.asking import requests
from unmask.serve.metrics import Metrics
from unmask.serve.options import Options
from unmask.serve.protocol import CLIENT_LEFT, Body, ChatRequest, Health, ModelCard
from unmask.serve.stream import Asked, Teller

LOG = logging.getLogger("unmask.serve")
_GRACE = 2.0  # seconds that a client has to take the news that its time is over


class Full(Exception):
    """So many wait that one more would wait too long; try again after `seconds`."""

    def __init__(self, waiting: int, seconds: int) -> None:
        super().__init__(f"{waiting} answers wait already: try again in about {seconds} seconds")
        self.seconds = seconds


class TimeLimit(Exception):
    """A request took longer than the server allows."""


class Service:
    """One engine as the endpoints see it."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self.model, self.options, self.metrics = engine.model, options, Metrics()
        self.card = ModelCard(id=options.name or engine.model.name, created=int(time.time()))
        self.closing = False  # whether the server is about to end
        self._engine = engine
        self._running: AsyncEngine | None = None
        self._usual_seconds = 1.0  # of an answer, a running mean
        # Choices to come of each request let in. One that is given up before it is followed leaves with its last reference.
        self._let_in: WeakKeyDictionary[Asked, int] = WeakKeyDictionary()

    def start(self, running: AsyncEngine) -> None:
        """Begin to take requests."""
        self._running = running

    @property
    def _waiting(self) -> int:
        """Choices that wait: in the engine, or on their way there, which they take only when their answer is sent."""
        return max(0, sum(self._let_in.values()) - self._engine.load.running)

    @property
    def health(self) -> Health:
        load = self._engine.load
        if self.closing or self._running is None:
            status: Any = "closing" if self.closing else "starting"
        elif not self._running.alive:
            status = "failed"
        else:
            status = "busy" if self._waiting >= self.options.queue else "ready"
        return Health(status=status, ready=status == "ready", waiting=load.waiting, running=load.running)

    def measure(self) -> None:
        """Tell the metrics how busy the engine is."""
        self.metrics.load(self._engine.load)

    def observe(self, rows: int, seconds: float) -> None:
        """A step of the engine, from its thread."""
        self.metrics.forward(rows, seconds)
        self.measure()

    def know(self, name: str | None) -> None:
        """Raises HTTPException (404) for any model but ours."""
        if name not in (None, self.card.id):
            raise HTTPException(404, f"there is no model '{name}' here: this server has '{self.card.id}'")

    async def ask(self, body: Body, number: str) -> Asked:
        """Take a request in. Raises what says why not: UnmaskError, HTTPException or Full; nothing runs yet."""
        self.know(body.model)
        if self._running is None or self.closing:
            raise HTTPException(503, "the server is closing", headers={"retry-after": "1"})
        # Encoding a long prompt takes a while, in which the others' streams go on.
        made = await asyncio.to_thread(requests, body, self.model, self.options)
        if len(made) > self.options.queue:
            raise HTTPException(400, f"{len(made)} choices at once: this server takes up to {self.options.queue}")
        for request in made:
            self._engine.check(request)
        waiting = self._waiting
        if waiting + len(made) > self.options.queue:
            raise Full(waiting, max(1, math.ceil(self._usual_seconds)))
        asked = Asked(
            id=f"{'chatcmpl' if isinstance(body, ChatRequest) else 'cmpl'}-{number}",
            chat=isinstance(body, ChatRequest),
            model=self.card.id,
            requests=made,
            prompt_tokens=sum(len(request.prompt) for request in made[:: body.n or 1]),
        )
        self._let_in[asked] = len(made)
        return asked

    async def complete(self, asked: Asked, http: HTTPRequest, told: dict[str, Any]) -> list[Completion]:
        """All choices' completions. A client that leaves frees what they hold.

        Raises what a forward raised, TimeLimit, and ClientDisconnect.
        """

        async def collect() -> list[Completion]:
            done: dict[int, Completion] = {}
            async with aclosing(self.follow(asked)) as stream:  # type: ignore[type-var]
                async for index, item in stream:
                    if item.completion is not None:
                        done[index] = item.completion
            return [done[index] for index in range(len(asked.requests))]

        answer, gone = asyncio.create_task(collect()), asyncio.create_task(_disconnect(http))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect
            done = answer.result()
        finally:
            for task in (answer, gone):
                task.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)
        self.finish(asked, done, told)
        return done

    async def events(self, asked: Asked, body: Body, told: dict[str, Any]) -> AsyncIterator[str]:
        """Server-sent events, from the first to [DONE]; `told` takes what the log shall say."""
        teller, done = Teller(asked, self.model, body.diffusion), dict[int, Completion]()
        told["status"] = CLIENT_LEFT  # unless it comes to an end, the client has left
        try:
            for event in teller.begin():
                yield event
            async with aclosing(self.follow(asked, watch=teller.watches)) as stream:  # type: ignore[type-var]
                async for index, item in stream:
                    for event in teller.tell(index, item):
                        yield event
                    if item.completion is not None:
                        done[index] = item.completion
        except Exception as error:
            # The status went out long ago: the stream says what happened, and ends without [DONE].
            told["status"] = 504 if isinstance(error, TimeLimit) else 500
            LOG.exception("a stream failed", extra={"about": {"request_id": asked.id}})
            yield teller.failure(str(error) if isinstance(error, TimeLimit) else "the server failed; its log says why")
            return
        completions = [done[index] for index in range(len(asked.requests))]
        self.finish(asked, completions, told)
        told["status"] = 200
        for event in teller.end(completions, usage=body.stream_options is not None and body.stream_options.include_usage):
            yield event

    async def follow(self, asked: Asked, *, watch: bool = False) -> AsyncIterator[tuple[int, Progress]]:
        """The progress of all choices as it comes, each with the number of its choice; closing it aborts what still runs.

        Raises what a forward raised, and TimeLimit.
        """
        assert self._running is not None
        engine, queue = self._running, asyncio.Queue[tuple[int, Progress | Exception]]()

        async def follow(index: int) -> None:
            try:
                async with aclosing(engine.stream(asked.requests[index], watch=watch)) as stream:  # type: ignore[type-var]
                    async for item in stream:
                        queue.put_nowait((index, item))
            except Exception as error:
                queue.put_nowait((index, error))

        tasks = [asyncio.create_task(follow(index)) for index in range(len(asked.requests))]
        running, silent = set(range(len(tasks))), set(range(len(tasks)))
        late = TimeLimit(f"the request took longer than {self.options.seconds:g} seconds")
        left = asked.began + self.options.seconds - time.perf_counter()
        loop, reader = asyncio.get_running_loop(), asyncio.current_task()
        assert reader is not None
        timers = [
            # In the queue like any other error: a timeout around each item is a third of what an item costs here.
            loop.call_later(left, queue.put_nowait, (0, late)),
            # Who has not taken even that is a client that reads no more, and would hold its place for ever.
            loop.call_later(left + _GRACE, reader.cancel),
        ]
        try:
            while running:
                index, item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                if item.text and index in silent:
                    silent.discard(index)
                    self.metrics.first_text(time.perf_counter() - asked.began)
                if item.completion is not None:
                    running.discard(index)
                    self._let_in[asked] -= 1
                yield index, item
        finally:
            del self._let_in[asked]
            for timer in timers:
                timer.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.measure()

    def finish(self, asked: Asked, done: list[Completion], told: dict[str, Any]) -> None:
        """Count a request whose choices are all done, and have the log say what it was."""
        self.metrics.answered(asked.prompt_tokens, done)
        for completion in done:
            self._usual_seconds += 0.1 * (completion.seconds - self._usual_seconds)
        told |= {"decoding": asked.requests[0].method.name} | asked.usage(done).model_dump(exclude={"total_tokens"})


async def _disconnect(http: HTTPRequest) -> None:
    """Returns when the client has left."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
