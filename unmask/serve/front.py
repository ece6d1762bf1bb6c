"""The middleware of Ray's proxy, before the replicas: what a request begins with, and what it gets when a replica dies.

Ray's proxies call `middlewares` where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it (`unmask serve
--replicas` sets that; set it before `ray start` elsewhere). Without it the client gets a bare 500 or a stream that
breaks off. The proxies import this file, so it imports next to nothing.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmask.serve.affinity import prefix_keys

PATH = "unmask.serve.front:middlewares"
_KEPT = 2**20  # bytes per body: a larger one is not sent a second time
_SESSION = "x-session-id"  # what Ray's request router is given of a request
_HEALTH = ("/health", "/health/live")
_HEALTH_SECONDS = 2.0  # for a replica to say how it is
_SECONDS = 1.0  # for a body to come, so that its beginning is known before a replica is chosen
# The right status for Ray's own: without a replica that takes requests it has no route; its time limit is a 408.
_STATUS = {404: 503, 408: 504}


def middlewares() -> list[Middleware]:
    """The middlewares that Ray's proxy puts around itself."""
    return [Middleware(Front)]


class Front:
    """The middleware.

    A request carries the keys of what it begins with, by which routing.py chooses its replica. One whose replica died
    before its response began goes to another replica, once; a stream whose replica died ends with an event that says so.
    Refusals of Ray get OpenAI's form. /health is answered soon, whether there are replicas or not.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["path"] in _HEALTH:
            return await self._health(scope, receive, send)
        body, response = _Body(receive), _Response(scope, send)
        if scope["method"] == "POST":
            headers = MutableHeaders(scope=scope)
            keys = prefix_keys(await body.beginning(), headers.get("authorization", ""))
            headers[_SESSION] = ".".join(keys)
        await self._app(scope, body.receive, response.send)
        if not response.begun and body.is_whole:
            body.rewind()
            await self._app(scope, body.receive, response.send)
        if not body.disconnected:
            await response.end(receive)

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What a replica says of itself, or that none does: without one Ray keeps a request until there is one again."""
        response = _Response(scope, send)
        with suppress(TimeoutError):
            async with asyncio.timeout(_HEALTH_SECONDS):
                await self._app(scope, receive, response.send)
        if not response.answered:
            content = {"status": "failed", "ready": False, "waiting": 0, "running": 0}
            await JSONResponse(content, 503)(scope, receive, send)


class _Body:
    """A request's body, kept as it passes so that it can be sent again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: list[Message] = []
        self._next = 0
        self.disconnected = False  # whether the client has left

    @property
    def is_whole(self) -> bool:
        """Whether all of it can be sent again."""
        sizes = sum(len(message.get("body", b"")) for message in self._kept)
        return not self.disconnected and sizes <= _KEPT

    def rewind(self) -> None:
        self._next = 0

    async def beginning(self) -> bytes:
        """What has come of it in a short time, and of a large one no more than is kept; all of it is still to be received."""
        try:
            async with asyncio.timeout(_SECONDS):
                while self.is_whole and (await self.receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass
        self.rewind()
        return b"".join(message.get("body", b"") for message in self._kept)

    async def receive(self) -> Message:
        """The next message, a kept one where there is one."""
        if self._next == len(self._kept):
            message = await self._receive()
            self.disconnected = message["type"] == "http.disconnect"
            if self.disconnected or not self.is_whole:
                return message
            self._kept.append(message)
        self._next += 1
        return self._kept[self._next - 1]


class _Response:
    """A response on its way to the client; a refusal of Ray's own is held back and put into OpenAI's form."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._refusal: Message | None = None  # the start of a response of Ray's
        self._text = b""
        self._streams = self._ended = False
        self.begun = False

    @property
    def answered(self) -> bool:
        """Whether a replica's response has begun."""
        return self.begun and self._refusal is None

    async def send(self, message: Message) -> None:
        """One message of the response."""
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            kind = headers.get("content-type", "")
            self._streams = kind.startswith("text/event-stream")
            if message["status"] >= 400 and kind.startswith("text/plain"):  # the replicas' are JSON
                self._refusal = message
            else:
                if "x-request-id" in headers:
                    headers["x-request-id"] = headers["x-request-id"]  # once: Ray adds a second one
                await self._send(message)
        elif self._refusal is not None:
            self._text += message.get("body", b"")
        else:
            self._ended = not message.get("more_body", False)
            await self._send(message)

    async def end(self, receive: Receive) -> None:
        """Complete the response where no replica does."""
        if not self.begun:
            await self._send_error(503, "the replica of this request failed: try again", receive)
        elif self._refusal is not None:
            ray: int = self._refusal["status"]
            text = "no replica takes requests: the server is starting or ending" if ray == 404 else self._text.decode()
            await self._send_error(_STATUS.get(ray, ray), text, receive)
        elif self._streams and not self._ended:
            text = f"data: {json.dumps(_error('the replica of this stream failed'))}\n\n"
            await self._send({"type": "http.response.body", "body": text.encode()})

    async def _send_error(self, status: int, text: str, receive: Receive) -> None:
        headers = {"retry-after": "1"} if status == 503 else {}
        await JSONResponse(_error(text), status, headers)(self._scope, receive, self._send)


def _error(text: str) -> dict[str, Any]:
    return {"error": {"message": text, "type": "server_error", "param": None, "code": None}}
