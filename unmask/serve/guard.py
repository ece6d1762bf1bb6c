"""What stands before every endpoint: an id and a log line for each request, the API key, limits of size and time.

Plain ASGI, so that a stream passes through untouched.
"""

import asyncio
import hmac
import json
import logging
import re
import secrets
import sys
import time
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmask.serve.metrics import Metrics
from unmask.serve.options import Options
from unmask.serve.problem import problem
from unmask.serve.protocol import BAD_REQUEST, CLIENT_LEFT, SERVER

LOG = logging.getLogger("unmask.serve")
OPEN = ("/", "/health", "/health/live", "/metrics", "/openapi.json")  # need no key
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/models", *OPEN)  # metrics name these; all others are "other"


class Guard:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, options: Options, metrics: Metrics) -> None:
        self._app, self._options, self._metrics = app, options, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, headers = time.perf_counter(), Headers(scope=scope)
        given = headers.get("x-request-id", "")
        number = given if re.fullmatch(r"[\w.:-]{1,128}", given) else f"req-{secrets.token_hex(8)}"
        told: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=number, told=told)
        status = CLIENT_LEFT

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        try:
            await (self._refusal(scope, headers) or self._app)(scope, self._limited(receive, began, told), answer)
        except ClientDisconnect:
            pass
        except Exception:
            LOG.exception("a request failed", extra={"about": {"request_id": number}})
            if status != CLIENT_LEFT:
                raise  # the response has begun: all that is left is to break it off
            text = f"the server failed; its log says why under {number}"
            await problem(500, text, kind=SERVER)(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - began
            endpoint = scope["path"] if scope["path"] in ENDPOINTS else "other"
            status = told.pop("status", status)  # of a stream, how it ended and not how it began
            self._metrics.request(endpoint, status, seconds)
            about = {"request_id": number, "method": scope["method"], "path": scope["path"], "status": status}
            LOG.info("request", extra={"about": about | {"seconds": round(seconds, 4)} | told})

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        if self._options.api_keys and scope["path"] not in OPEN:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            matches = [hmac.compare_digest(key.strip().encode(), known.encode()) for known in self._options.api_keys]
            if scheme.lower() != "bearer" or not any(matches):
                text = "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'"
                return problem(401, text, kind="authentication_error", code="invalid_api_key")
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._options.body_bytes:
            return problem(413, self._too_large(), kind=BAD_REQUEST, param="body")
        return None

    def _too_large(self) -> str:
        return f"the body is larger than the {self._options.body_bytes} bytes that this server takes"

    def _limited(self, receive: Receive, began: float, told: dict[str, Any]) -> Receive:
        size, whole = 0, False

        async def limited() -> Message:
            nonlocal size, whole
            if whole:
                return await receive()
            try:
                # A client that dribbles its body holds a connection, not a place in the engine, and not for ever.
                message = await asyncio.wait_for(receive(), max(0.0, began + self._options.seconds - time.perf_counter()))
            except TimeoutError:
                raise HTTPException(408, f"the body was not complete after {self._options.seconds:g} seconds") from None
            if message["type"] == "http.disconnect":
                told["status"] = CLIENT_LEFT
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if size > self._options.body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return limited


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (UTC, ISO 8601), level, message, what the record is about, and the error if there is one."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": at, "level": record.levelname.lower(), "message": record.getMessage(), **getattr(record, "about", {})}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr() -> None:
    """Write the server's log, uvicorn's errors included, to stderr as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("unmask", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    logging.getLogger("uvicorn.access").disabled = True  # ours says more
