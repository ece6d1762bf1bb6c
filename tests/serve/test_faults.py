"""What goes wrong in production, many at once.

A request that is not to blame gets the answer that it would get alone, nothing is lost, nothing hangs, memory is what it was.
"""

import asyncio
import gc
import json
import os
import random
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

import unmask
from tests.serve.live import CHAT, QUESTION, Live, Serving, until
from unmask.engine.engine import Engine, Limits
from unmask.engine.request import Progress
from unmask.engine.state import RequestState
from unmask.models.denoiser import Denoiser
from unmask.serve.options import Options

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
            response = (await http.post("/v1/chat/completions", json=body(GOOD[number]))).json()
            text: str = response["choices"][0]["message"]["content"]
            return text
        async with http.stream("POST", "/v1/chat/completions", json=body(GOOD[number], stream=True)) as response:
            lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
        assert lines[-1] == "[DONE]"
        return "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines[:-1])

    return client


def leaver(after: float, *, stream: bool) -> Client:
    """A client that is gone after so many seconds, long before its answer could be complete."""
    content = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 384, "n": 2, "stream": stream}
    content["diffusion"] = {"method": "vanilla", "cache": "none", "drafts": stream}

    async def client(http: httpx2.AsyncClient) -> str:
        try:
            async with asyncio.timeout(after), http.stream("POST", "/v1/chat/completions", json=content) as response:
                async for _ in response.aiter_raw():
                    pass
        except TimeoutError:
            return "left"
        return "answered"

    return client


def test_clients_that_leave_at_any_moment_harm_no_other(serving: Serving, tiny: Denoiser, right: list[str]) -> None:
    rng = random.Random(3)
    leavers = [leaver(rng.uniform(0.0, 0.5), stream=bool(number % 2)) for number in range(36)]
    others = [good(number % len(GOOD), stream=number % 3 == 0) for number in range(24)]
    mixed: list[tuple[int | None, Client]] = [(None, client) for client in leavers]
    mixed += [(number % len(GOOD), client) for number, client in enumerate(others)]
    rng.shuffle(mixed)
    with serving(tiny, Limits(rows=16)) as live:
        answers = at_once(live, [client for _, client in mixed])
        live.wait_until_idle()
        assert at_once(live, [good(0, stream=False)]) == [right[0]]
    for (number, _), said in zip(mixed, answers, strict=True):
        assert said == ("left" if number is None else right[number])


def raw(content: bytes, status: int) -> Client:
    """A client that sends this and is refused with that status, in one line."""

    async def client(http: httpx2.AsyncClient) -> str:
        response = await http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
        message = response.json()["error"]["message"]
        assert response.status_code == status, f"{response.status_code} for {content[:40]!r}: {message}"
        assert message
        assert "\n" not in message
        return "refused"

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
    (asking(""), 400),
    (asking(7), 400),
    (asking("apples " * 20_000), 400),
    (asking("<|mask|>"), 400),
    (asking("x" * 10_000_000), 413),
]


def test_poisoned_requests_are_refused_and_harm_no_other(serving: Serving, tiny: Denoiser, right: list[str]) -> None:
    with serving(tiny) as live:
        bad = [raw(content, status) for content, status in POISON]
        answers = at_once(live, [good(number, stream=number % 2 == 0) for number in range(len(GOOD))] + bad)
    assert answers[: len(GOOD)] == right
    assert answers[len(GOOD) :] == ["refused"] * len(bad)


def test_null_bytes_are_text_like_any_other(live: Live) -> None:
    content = "Mia has \0 apples.\0"
    response = live.chat(messages=[{"role": "user", "content": content}])
    alone = unmask.generate(live.model, [content], max_new_tokens=32)[0]
    assert response.json()["choices"][0]["message"]["content"] == alone.text


def test_requests_that_wait_for_memory_are_served_in_their_order(
    serving: Serving, tiny: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory for one row at a time; the engine stands still until all have come, one after the other."""
    prompts, done, gate, step = PROMPTS * 3, list[int](), threading.Event(), Engine.step

    def gated(self: Engine) -> list[Progress]:
        gate.wait()
        made = step(self)
        assert self.load.running <= 1
        done.extend(progress.number for progress in made if progress.completion is not None)
        return made

    monkeypatch.setattr(Engine, "step", gated)

    def ask(prompt: str) -> str:
        response = live.chat(messages=[{"role": "user", "content": prompt}], max_tokens=64)
        text: str = response.json()["choices"][0]["message"]["content"]
        return text

    with serving(tiny, Limits(memory=8 * tiny.page_bytes)) as live, ThreadPoolExecutor(len(prompts)) as pool:
        try:
            futures = []
            for come, prompt in enumerate(prompts, start=1):
                futures.append(pool.submit(ask, prompt))
                until(lambda come=come: sum(live.engine.load[:2]) == come)
        finally:
            gate.set()
        answers = [one.result() for one in futures]
    assert done == sorted(done)
    assert len(done) == len(prompts)
    alone = {prompt: unmask.generate(tiny, [prompt], max_new_tokens=64)[0].text for prompt in PROMPTS}
    assert answers == [alone[prompt] for prompt in prompts]


def test_a_pool_too_small_for_all_answers_all(serving: Serving, tiny: Denoiser, right: list[str]) -> None:
    numbers = list(range(len(GOOD))) * 3
    with serving(tiny, Limits(memory=24 * tiny.page_bytes)) as live:
        answers = at_once(live, [good(number, stream=place % 2 == 0) for place, number in enumerate(numbers)])
        live.wait_until_idle()
    assert answers == [right[number] for number in numbers]


def test_hundreds_of_requests_leave_nothing_behind(serving: Serving, tiny: Denoiser) -> None:
    """Pages, rows, listeners and tasks to the last one; of the process's memory what no leak of a request's size explains."""
    clients = [good(0, stream=True), good(0, stream=False), good(2, stream=True), good(4, stream=False)] * 2  # short ones
    clients += [leaver(0.05, stream=False), leaver(0.1, stream=True), raw(b"{", 400), raw(asking("apples " * 1000), 400)]
    with serving(tiny, Limits(rows=16)) as live:
        engine = live.app.state.service._async_engine
        resting = pending_tasks()
        for _ in range(2):
            at_once(live, clients * 4)
        until(lambda: live.is_idle() and pending_tasks() <= resting)
        before = resident()
        for _ in range(4):
            at_once(live, clients * 4)
        until(lambda: live.is_idle() and pending_tasks() <= resting)
        assert not engine._listeners
        assert not alive(RequestState)
        assert resident() - before < 20 * 2**20
        assert live.chat().status_code == 200


def alive(kind: type) -> list[Any]:
    """All objects of this kind that there are."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]


def pending_tasks() -> int:
    """Of every loop in the process."""
    return sum(not task.done() for task in alive(asyncio.Task))


def resident() -> int:
    """Bytes of this process that are in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_client_that_reads_no_more_gives_its_place_back(serving: Serving, tiny: Denoiser) -> None:
    """Its connection stays, but nothing of what it was sent is taken: at the end of its time it is let go all the same."""
    body = json.dumps({"messages": CHAT, "max_tokens": 384, "n": 8, "stream": True, "diffusion": {"drafts": True}}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with serving(tiny, Limits(rows=8), Options(queue=8, seconds=2.0)) as live:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            host, port = live.url.removeprefix("http://").split(":")
            client.connect((host, int(port)))
            client.sendall(head + f"content-length: {len(body)}\r\n\r\n".encode() + body)
            admission = live.app.state.service.admission
            until(lambda: admission.open == 8)
            until(lambda: admission.open == 0)
            assert live.chat(n=8).status_code == 200
        live.wait_until_idle()


def test_a_forward_that_fails_spares_the_requests_that_wait(
    serving: Serving, tiny: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, failing = Denoiser.forward, threading.Event()

    def faulty(self: Denoiser, *arguments: Any) -> Any:
        if failing.is_set() and live.engine.load.waiting:
            failing.clear()
            raise MemoryError("too much for one")
        return forward(self, *arguments)

    monkeypatch.setattr(Denoiser, "forward", faulty)
    with serving(tiny, Limits(rows=1)) as live, ThreadPoolExecutor(2) as pool:
        failing.set()
        futures = [pool.submit(live.chat, max_tokens=64, diffusion={"method": "vanilla"}) for _ in range(2)]
        assert sorted(one.result().status_code for one in futures) == [200, 500]


def test_where_nothing_succeeds_any_more_it_says_so(serving: Serving, tiny: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(self: Denoiser, *arguments: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(Denoiser, "forward", faulty)
    with serving(tiny) as live, live.http() as client:
        for _ in range(8):
            assert live.chat().status_code == 500
        live.wait_until_idle()
        assert (client.get("/health").status_code, client.get("/health").json()["status"]) == (503, "failed")
