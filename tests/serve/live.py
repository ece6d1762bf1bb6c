"""A live server in a thread, clients of it, and what they ask."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import uvicorn
from fastapi import FastAPI

from unmask.engine.engine import Engine, Limits
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS
from unmask.serve.app import create_app
from unmask.serve.options import Options
from unmask.serve.server import Server, listen

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
        end = time.monotonic() + 20
        while not self.is_idle():
            assert time.monotonic() < end, f"still busy: {self.engine.load}"
            time.sleep(0.01)


@contextmanager
def running(model: Denoiser, limits: Limits | None = None, options: Options | None = None) -> Iterator[Live]:
    """A server of this model until the block is left; what it lent is back by then."""
    engine = Engine(model, limits)
    app = create_app(engine, options)
    at = listen("127.0.0.1", 0)
    server = Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        live = Live(f"http://127.0.0.1:{at.getsockname()[1]}", app, engine)
        yield live
        live.wait_until_idle()
    finally:
        server.should_exit = True
        thread.join(20)
        at.close()
    assert not thread.is_alive()


Serving = Callable[..., AbstractContextManager[Live]]


class Bytes:
    """A tokenizer of one byte a token: letters of several bytes are split over tokens."""

    chat_template = None
    table = "abcdefgh é€".encode() + "é€é€".encode()

    def encode(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> list[int]:
        return [self.table.index(byte) for byte in text.encode()]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(self.table[token] for token in ids if token < EOS).decode(errors="replace")


def events(response: httpx2.Response) -> list[dict[str, Any]]:
    """The events of a stream that ended as it should."""
    lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]
