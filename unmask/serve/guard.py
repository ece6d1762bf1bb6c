"""The middleware around every endpoint: a log entry per request, the API key, limits of size and time.

Plain ASGI, so that a stream passes through untouched.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import re
import secrets
import time

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmask.serve.errors import error_response
from unmask.serve.log import LogEntry
from unmask.serve.metrics import Metrics
from unmask.serve.options import Options
from unmask.serve.protocol import BAD_REQUEST, CLIENT_LEFT, SERVER

OPEN = ("/", "/health", "/health/live", "/metrics", "/openapi.json")  # need no key
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/models", *OPEN)  # metrics name these; all others are "other"


class Guard:
    """The middleware; endpoints find the request's LogEntry as `request.state.log`, its `key` and `cache_scope` beside it."""

    def __init__(self, app: ASGIApp, *, options: Options, metrics: Metrics) -> None:
        self._app, self._options, self._metrics = app, options, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        log = LogEntry(request_id=_request_id(headers), method=scope["method"], path=scope["path"])
        scope.setdefault("state", {}).update(log=log, key="", cache_scope="")

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                log.sent = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = log.request_id
            await send(message)

        try:
            await (self._refusal(scope, headers) or self._app)(scope, self._limited(receive, log), send_with_id)
        except ClientDisconnect:
            pass
        except Exception:
            log.write_error("a request failed")
            if log.sent is not None:
                raise  # the response has begun: all that is left is to break it off
            text = f"the server failed; its log says why under {log.request_id}"
            await error_response(500, text, kind=SERVER)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - log.began
            endpoint = scope["path"] if scope["path"] in ENDPOINTS else "other"
            self._metrics.request(endpoint, log.status, seconds)
            log.write(seconds)

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        hosts, name = self._options.hosts, host_name(headers.get("host", ""))
        if hosts and name not in hosts and not is_address(name):
            text = f"this server is not known as {name!r}: use {hosts[0]}, or start it with --allowed-host {name}"
            return error_response(421, text, kind=BAD_REQUEST)
        if self._options.api_keys and scope["path"] not in OPEN:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            key = key.strip()
            matches = [hmac.compare_digest(key.encode(), known.encode()) for known in self._options.api_keys]
            if scheme.lower() != "bearer" or not any(matches):
                text = "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'"
                return error_response(401, text, kind="authentication_error", code="invalid_api_key")
            digest = hashlib.sha256(key.encode()).hexdigest()
            if len(self._options.api_keys) > 1:
                scope["state"]["key"] = digest  # with which it gets its share
            if not self._options.share_prefix_across_keys:
                # The time of an answer, and `cached_tokens`, would say what the prompts of others begin with.
                scope["state"]["cache_scope"] = digest
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._options.body_bytes:
            return error_response(413, self._too_large(), kind=BAD_REQUEST, param="body")
        return None

    def _too_large(self) -> str:
        return f"the body is larger than the {self._options.body_bytes} bytes that this server takes"

    def _limited(self, receive: Receive, log: LogEntry) -> Receive:
        size, whole = 0, False

        async def limited() -> Message:
            nonlocal size, whole
            if whole:
                return await receive()
            try:
                # A client that sends its body slowly holds a connection for so long, and nothing of the engine.
                left = log.began + self._options.seconds - time.perf_counter()
                message = await asyncio.wait_for(receive(), max(0.0, left))
            except TimeoutError:
                raise HTTPException(408, f"the body was not complete after {self._options.seconds:g} seconds") from None
            if message["type"] == "http.disconnect":
                log.outcome = CLIENT_LEFT
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if size > self._options.body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return limited


def host_name(host: str) -> str:
    """The name in a header `host`, without its port.

    >>> host_name("localhost:8000"), host_name("[::1]:8000"), host_name("Example.org")
    ('localhost', '::1', 'example.org')
    """
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower().rstrip(".")


def is_address(name: str) -> bool:
    """Whether a name is an IP address, which no other site can give itself."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _request_id(headers: Headers) -> str:
    """The client's own id where it is a plain word, else a new one."""
    given = headers.get("x-request-id", "")
    return given if re.fullmatch(r"[\w.:-]{1,128}", given) else f"req-{secrets.token_hex(8)}"
