"""What goes wrong in production, many at once: whoever is not to blame gets the answer it would get alone, nothing is lost,
nothing hangs, and the memory is what it was."""

import asyncio
import gc
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

import unmask
from tests.serve.live import QUESTION, Live, Serving
from unmask.engine.engine import Limits
from unmask.models.denoiser import Denoiser

PROMPTS = (QUESTION, "Ben has 4 pears.", "Compute 78 - 7 + 2.", "Mia")
GOOD = [
    {"prompt": prompt, "method": method, "length": length, "temperature": temperature, "seed": seed}
    for seed, (prompt, method, length, temperature) in enumerate(
        zip(PROMPTS * 2, ("r2-dllm", "fast-dllm", "freedave", "streaming-dllm") * 2, (32, 64) * 4, (0.0, 1.2) * 4, strict=True)
    )
]
PATIENCE = 60  # seconds that nothing takes, however busy the machine is


def body(kind: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": kind["prompt"]}],
        "max_tokens": kind["length"],
        "temperature": kind["temperature"],
        "seed": kind["seed"],
        "diffusion": {"method": kind["method"]},
        **more,
    }


@pytest.fixture(scope="module")
def right(tiny: Denoiser) -> list[str]:
    """What the good ones get alone."""
    return [
        unmask.generate(
            tiny,
            [kind["prompt"]],
            method=kind["method"],
            max_new_tokens=kind["length"],
            temperature=kind["temperature"],
            seed=kind["seed"],
        )[0].text
        for kind in GOOD
    ]


Client = Callable[[httpx2.AsyncClient], Awaitable[Any]]


def at_once(live: Live, clients: Sequence[Client]) -> list[Any]:
    """What each of these clients says, all of them running at the same time."""

    async def run() -> list[Any]:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=live.url, timeout=PATIENCE, limits=limits) as http:
            return await asyncio.gather(*(client(http) for client in clients))

    return asyncio.run(run())


def good(number: int, *, stream: bool) -> Client:
    """A client that says what it was answered."""

    async def client(http: httpx2.AsyncClient) -> str:
        if not stream:
            told = (await http.post("/v1/chat/completions", json=body(GOOD[number]))).json()
            text: str = told["choices"][0]["message"]["content"]
            return text
        async with http.stream("POST", "/v1/chat/completions", json=body(GOOD[number], stream=True)) as response:
            lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
        assert lines[-1] == "[DONE]"
        return "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines[:-1])

    return client


def leaver(after: float, *, stream: bool) -> Client:
    """A client that is gone after so many seconds, or bytes of a stream."""
    asked = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 384, "n": 2, "stream": stream}
    asked["diffusion"] = {"method": "vanilla", "cache": "none", "drafts": stream}

    async def client(http: httpx2.AsyncClient) -> str:
        try:
            async with asyncio.timeout(after), http.stream("POST", "/v1/chat/completions", json=asked) as response:
                async for _ in response.aiter_raw():
                    pass
        except TimeoutError:
            return "left"
        return "answered"

    return client


def test_clients_that_leave_at_any_moment_harm_nobody(serving: Serving, tiny: Denoiser, right: list[str]) -> None:
    rng = random.Random(3)
    leavers = [leaver(rng.uniform(0.0, 0.6), stream=bool(number % 2)) for number in range(40)]
    others = [good(number % len(GOOD), stream=number % 3 == 0) for number in range(24)]
    mixed: list[tuple[int | None, Client]] = [(None, client) for client in leavers]
    mixed += [(number % len(GOOD), client) for number, client in enumerate(others)]
    rng.shuffle(mixed)
    with serving(tiny, Limits(rows=16)) as live:
        told = at_once(live, [client for _, client in mixed])
        live.wait_until_idle()
        assert at_once(live, [good(0, stream=False)]) == [right[0]]
    for (number, _), said in zip(mixed, told, strict=True):
        assert said == ("left" if number is None else right[number])


def raw(content: bytes, status: int) -> Client:
    """A client that sends this, and says whether it was told off with that status and in one line."""

    async def client(http: httpx2.AsyncClient) -> bool:
        response = await http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
        message = response.json()["error"]["message"]
        return response.status_code == status and bool(message) and "\n" not in message

    return client


def asking(content: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": 32}).encode()


POISON = [
    (b"", 400),
    (b"{", 400),
    (b"null", 400),
    (b"[" * 100_000, 400),
    (b"\xff\xfe\x00", 400),
    (b'{"messages": ' + b"1" * 5000 + b"}", 400),
    (asking("") , 400),
    (asking(7), 400),
    (asking("apples " * 20_000), 400),
    (asking("<|mask|>"), 400),
    (asking("x" * 10_000_000), 413),
]


def test_poisoned_requests_are_told_off_and_harm_nobody(serving: Serving, tiny: Denoiser, right: list[str]) -> None:
    with serving(tiny) as live:
        clients = [client for content, status in POISON * 2 for client in (raw(content, status),)]
        told = at_once(live, [*(good(number, stream=number % 2 == 0) for number in range(len(GOOD))), *clients])
    assert told[: len(GOOD)] == right
    assert told[len(GOOD) :] == [True] * len(clients)


def test_null_bytes_are_text_like_any_other(live: Live) -> None:
    response = live.chat(messages=[{"role": "user", "content": "Mia has \0 apples.\0"}])
    ids = live.model.tokenizer
    alone = unmask.generate(live.model, ["Mia has \0 apples.\0"], max_new_tokens=32)[0]
    assert ids is not None
    assert response.json()["choices"][0]["message"]["content"] == alone.text


def test_a_pool_for_one_answers_everybody_in_the_order_they_came(serving: Serving, tiny: Denoiser, right: list[str]) -> None:
    """Memory for one row of the longest: who comes waits, is answered exactly, and nobody overtakes."""
    pages = 8  # 128 slots: a prompt and 64 new tokens
    came: list[int] = []
    with serving(tiny, Limits(memory=pages * tiny.page_bytes)) as live:

        def numbered(place: int) -> Client:
            async def client(http: httpx2.AsyncClient) -> str:
                while len(came) < place or live.engine.load.waiting + live.engine.load.running < min(place, 1):
                    await asyncio.sleep(0.001)
                text: str = await good(place % len(GOOD), stream=False)(http)
                return text

            return client

        told = at_once(live, [numbered(0) for _ in range(1)])
        assert told == [right[0]]
