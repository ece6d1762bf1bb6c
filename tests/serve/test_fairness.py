"""One legal request cannot starve the rest, and what is too much for one request is refused."""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.serve.live import CHAT, Live, Serving, until
from unmask.engine.engine import Engine, Limits
from unmask.engine.request import Owner, Request
from unmask.models.denoiser import Denoiser
from unmask.serve.options import Options
from unmask.serve.protocol import ChatRequest
from unmask.serve.requests import engine_requests

ONE_BLOCK = {"block_length": 448, "cache": "none"}
HEAVY: list[dict[str, Any]] = [
    {"n": 128, "diffusion": {"method": "vanilla"}},
    {"n": 128, "diffusion": {"method": "vanilla", "block_length": 1, "cache": "none"}},
    {"n": 64, "diffusion": {"method": "freedave", "draft_steps": 2, "cache": "none"}},
    {"n": 128, "stream": True, "diffusion": {"method": "vanilla", "drafts": True, "trace": True, **ONE_BLOCK}},
    {"n": 16, "stop": [letter + "x" * 999 for letter in "abcdefghijklmnop"], "diffusion": {"method": "vanilla"}},
    {"diffusion": {"method": "freedave", "draft_steps": 2, **ONE_BLOCK}},
]
TOO_MUCH = [
    ({"n": 64, "diffusion": {"method": "freedave", "draft_steps": 16, "cache": "none"}}, "forwards of up to"),
    ({"diffusion": {"method": "freedave", "draft_steps": 17}}, "draft_steps 17: this server takes up to 16"),
    ({"stop": ["x" * 60_000]}, "stop[0]: string should have at most 1000"),
    ({"stop": ["x"] * 17}, "stop: list should have at most 16"),
    ({"n": 129}, "n: input should be less than or equal to 128"),
]
LONGEST = 0.5  # seconds of the longest forward that the caps allow on unmask-tiny


def light(live: Live, repeats: int) -> float:
    """Median seconds of a light request."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        assert live.chat().status_code == 200
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@contextmanager
def beside(live: Live, heavy: dict[str, Any]) -> Iterator[None]:
    """A heavy request runs until the block is left."""
    over = threading.Event()

    def ask() -> None:
        body = {"messages": CHAT, "max_tokens": 448, **heavy, "stream": True}
        with live.http() as client, client.stream("POST", "/v1/chat/completions", json=body, timeout=300) as response:
            assert response.status_code == 200
            for _ in response.iter_raw():
                if over.is_set():
                    return

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: live.engine.load.running)
    try:
        yield
        assert not live.is_idle(), "the heavy request is over already"
    finally:
        over.set()
        thread.join(60)


@pytest.mark.slow
@pytest.mark.parametrize("heavy", HEAVY)
def test_a_light_request_is_as_quick_as_ever_beside_a_heavy_one(
    serving: Serving, tiny: Denoiser, heavy: dict[str, Any]
) -> None:
    with serving(tiny) as live:
        alone = light(live, 10)
        with beside(live, heavy):
            together = light(live, 20)
        live.wait_until_idle()
    assert together <= max(5 * alone, LONGEST)


@pytest.mark.parametrize("heavy", HEAVY)
def test_a_light_request_waits_for_little_of_a_heavy_one(tiny: Denoiser, heavy: dict[str, Any]) -> None:
    """Counted, not timed: query tokens of a heavy request, whatever it is, in the forwards of a light one."""
    engine = Engine(tiny, Limits())
    body = {"messages": CHAT, "max_tokens": 448, **heavy}
    for request in engine_requests(ChatRequest(**body), tiny, Options(), owner=Owner("", "heavy")):
        engine.submit(request)
    for _ in range(3):
        engine.step()
    spent = {entry.number: entry.state.query_tokens for entry in engine._running.values()}
    assert len(spent) <= 32
    (request,) = engine_requests(ChatRequest(messages=CHAT, max_tokens=32), tiny, Options(), owner=Owner("", "light"))
    number = engine.submit(request)
    forwards = 0
    while number in engine:
        assert engine.step()
        forwards += 1
    heavies = [entry.state for entry in engine._running.values()]
    others = sum(state.query_tokens - spent.get(entry, 0) for entry, state in zip(engine._running, heavies, strict=True))
    assert forwards <= 4
    assert others <= 2 * engine.tokens // 4


@pytest.mark.parametrize(("fields", "words"), TOO_MUCH)
def test_too_much_for_one_request_is_refused(live: Live, fields: dict[str, Any], words: str) -> None:
    response = live.chat(max_tokens=448, **fields)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_the_caps_are_the_servers(serving: Serving, tiny: Denoiser) -> None:
    with serving(tiny, Limits(tokens=200), Options(choices=4, draft_steps=2)) as live, live.http() as client:
        assert live.chat(n=4).status_code == 200
        response = live.chat(n=5)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "n")
        assert "5 choices at once: this server takes up to 4" in response.json()["error"]["message"]
        response = client.post("/v1/completions", json={"prompt": ["Mia", "Ben", "Tom"], "n": 2, "max_tokens": 32})
        assert "6 choices at once (2 of each of 3 prompts)" in response.json()["error"]["message"]
        response = live.chat(diffusion={"method": "freedave", "draft_steps": 3})
        assert "draft_steps 3: this server takes up to 2" in response.json()["error"]["message"]
        response = live.chat(max_tokens=448, diffusion={"method": "vanilla", **ONE_BLOCK})
        assert "the engine's hold 200" in response.json()["error"]["message"]


def test_a_key_that_asks_much_leaves_room_for_another(tiny: Denoiser) -> None:
    """Eight seats, twenty long requests of one key: one of another key is answered while all of them go on."""
    engine = Engine(tiny, Limits(rows=8))
    long = ChatRequest(messages=CHAT, max_tokens=448, diffusion={"method": "vanilla"})
    for number in range(20):
        engine.submit(*engine_requests(long, tiny, Options(), owner=Owner("much", str(number))))
    for _ in range(3):
        engine.step()
    assert engine.load[:2] == (16, 4)
    short = ChatRequest(messages=CHAT, max_tokens=32)
    number = engine.submit(*engine_requests(short, tiny, Options(), owner=Owner("little", "one")))
    steps = 0
    while number in engine:
        engine.step()
        steps += 1
    assert steps <= 4
    assert engine.load[:2] == (16, 4)


def test_keys_have_shares_where_there_are_several(serving: Serving, tiny: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    owners, submit = list[Owner](), Engine.submit

    def kept(self: Engine, request: Request, **more: Any) -> int:
        owners.append(request.owner)
        return submit(self, request, **more)

    monkeypatch.setattr(Engine, "submit", kept)
    with serving(tiny, options=Options(api_keys=("one", "two"))) as live:
        for key in ("one", "two", "two"):
            with live.http(authorization=f"Bearer {key}") as client:
                body = {"messages": CHAT, "max_tokens": 32, "n": 2}
                assert client.post("/v1/chat/completions", json=body).status_code == 200
    keys, requests = [owner.key for owner in owners], [owner.request for owner in owners]
    assert len(set(keys)) == 2
    assert keys[2:] == [keys[2]] * 4
    assert requests[::2] == requests[1::2]  # the choices of a request are one another's
    assert len(set(requests)) == 3
