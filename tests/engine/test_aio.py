"""Streams over one engine thread: equal to the reference, free when a client leaves, alive after a failure."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import torch

import unmask
from tests.reference import alone
from unmask.engine.aio import AsyncEngine
from unmask.engine.engine import Engine, Limits
from unmask.engine.request import Completion, Request
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, toy

MODEL = toy("llada", seed=5, sharpness=3)
PRESETS = ("vanilla", "r2-dllm", "freedave", "streaming-dllm")


def request(seed: int, tokens: int = 32) -> Request:
    rng = random.Random(seed)
    return Request(
        prompt=tuple(rng.randrange(EOS) for _ in range(rng.randint(1, 30))),
        method=unmask.method(PRESETS[seed % len(PRESETS)], block_length=8),
        max_new_tokens=tokens,
    )


def costs(completion: Completion) -> tuple[list[int], int, int]:
    return completion.token_ids, completion.forwards, completion.query_tokens


@asynccontextmanager
async def serving() -> AsyncIterator[AsyncEngine]:
    async with AsyncEngine(Engine(MODEL, Limits(rows=4))) as engine:
        yield engine
    assert engine.engine.load[:3] == (0, 0, 0)


def within(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), timeout=60))


def test_many_clients_each_get_their_own_answer() -> None:
    requests = [request(seed) for seed in range(16)]

    async def test() -> None:
        async with serving() as engine:
            done = await asyncio.gather(*(engine.complete(one) for one in requests))
            for one, completion in zip(requests, done, strict=True):
                assert costs(completion) == costs(alone(MODEL, one))
            await asyncio.sleep(0.01)  # idle: the thread waits
            assert costs(await engine.complete(requests[0])) == costs(done[0])

    within(test)


def test_a_client_that_leaves_frees_what_it_held() -> None:
    """Half of the clients are cancelled or break off; the others' answers are unchanged."""

    async def leave(engine: AsyncEngine, one: Request, after: int) -> None:
        async with aclosing(engine.stream(one)) as stream:  # type: ignore[type-var]
            async for _ in stream:
                after -= 1
                if after == 0:
                    return

    async def test() -> None:
        async with serving() as engine:
            stays = [asyncio.create_task(engine.complete(request(seed))) for seed in range(4)]
            leaves = [asyncio.create_task(leave(engine, request(seed, 128), 3)) for seed in range(4)]
            waits = [asyncio.create_task(engine.complete(request(seed, 256))) for seed in range(8)]
            await asyncio.gather(*leaves)
            for task in waits:
                task.cancel()
            assert await asyncio.gather(*waits, return_exceptions=True)
            assert all(task.cancelled() for task in waits)
            for seed, task in enumerate(stays):
                assert costs(await task) == costs(alone(MODEL, request(seed)))

    within(test)


def test_bad_requests_are_refused_and_failed_forwards_end_only_those_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Denoiser.forward

    def fails(self: Denoiser, *rest: object) -> torch.Tensor:
        raise MemoryError("no room for this forward")

    async def test() -> None:
        async with serving() as engine:
            with pytest.raises(unmask.EmptyPrompt):
                await engine.complete(Request(prompt=(), method=unmask.method("vanilla")))
            monkeypatch.setattr(Denoiser, "forward", fails)
            failed = await asyncio.gather(*(engine.complete(request(seed)) for seed in range(3)), return_exceptions=True)
            assert all(isinstance(error, MemoryError) for error in failed)
            monkeypatch.setattr(Denoiser, "forward", forward)
            assert costs(await engine.complete(request(1))) == costs(alone(MODEL, request(1)))

    within(test)


def test_closing_ends_the_thread_and_tells_those_who_wait() -> None:
    async def test() -> None:
        engine = AsyncEngine(Engine(MODEL))
        waiting = asyncio.create_task(engine.complete(request(0, 256)))
        await asyncio.sleep(0.01)
        await engine.close()
        with pytest.raises(RuntimeError, match="closed"):
            await waiting
        with pytest.raises(RuntimeError, match="closed"):
            await engine.complete(request(0))
        assert not engine._thread.is_alive()
        assert engine.engine.load[:3] == (0, 0, 0)

    within(test)
