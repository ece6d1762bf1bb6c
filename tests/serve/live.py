"""A live server in a thread, clients of it, and what they ask."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
import openai
from fastapi import FastAPI

from unmask.engine.engine import Engine, Limits
from unmask.models.denoiser import Denoiser
from unmask.serve.app import create_app
from unmask.serve.options import Options
from unmask.serve.server import listen, server

T = TypeVar("T")
QUESTION = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"
CHAT = [{"role": "user", "content": QUESTION}]


@dataclass(frozen=True)
class Live:
    """A running server."""

    url: str
    app: FastAPI
    engine: Engine

    @property
    def model(self) -> Denoiser:
        return self.engine.model

    def client(self, key: str = "none", retries: int = 0) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=retries, timeout=60)

    def http(self, **headers: str) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60)

    def chat(self, **fields: Any) -> httpx2.Response:
        """A chat with these fields, whatever they are; None leaves a field out."""
        body = {"messages": CHAT, "max_tokens": 32, **fields}
        content = json.dumps({name: value for name, value in body.items() if value is not None})
        with self.http(**{"content-type": "application/json"}) as client:
            return client.post("/v1/chat/completions", content=content)

    def is_idle(self) -> bool:
        return self.engine.load[:3] == (0, 0, 0)

    def wait_until_idle(self) -> None:
        until(self.is_idle, 20)


def until(holds: Callable[[], T], seconds: float = 60) -> T:
    """Wait until something holds; what it came to."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, f"not after {seconds:g} seconds"
        time.sleep(0.01)
    return found


class Background:
    """A server of an application in a thread, on a free port."""

    def __init__(self, app: FastAPI) -> None:
        self._at = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._at.getsockname()[1]}"
        self._server = server(app, drain_seconds=5)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._at]})
        self._thread.start()
        until(lambda: self._server.started or not self._thread.is_alive())
        assert self._thread.is_alive(), "the server did not start"

    def stop(self, *, at_once: bool = False) -> None:
        """End it, after what runs or in the middle."""
        self._server.should_exit, self._server.force_exit = True, at_once
        self._thread.join(30)
        self._at.close()
        assert not self._thread.is_alive()


@contextmanager
def running(model: Denoiser, limits: Limits | None = None, options: Options | None = None) -> Iterator[Live]:
    """A server of this model until the block is left; what it lent is back by then."""
    engine = Engine(model, limits)
    app = create_app(engine, options)
    server = Background(app)
    try:
        live = Live(server.url, app, engine)
        yield live
        live.wait_until_idle()
    finally:
        server.stop()


Serving = Callable[..., AbstractContextManager[Live]]


def events(response: httpx2.Response) -> list[dict[str, Any]]:
    """The events of a stream that ended as it should."""
    lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]
