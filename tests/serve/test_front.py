"""What a client sees of a replica's death and of Ray's refusals: the middleware before what behaves like Ray's proxy."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmask.serve.front import Front

BODY = [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.request", "body": b" and half"}]
JSON, STREAM, PLAIN = b"application/json", b"text/event-stream", b"text/plain; charset=utf-8"
Attempt = Callable[[bytes, Send], Awaitable[None]]


def start(status: int, kind: bytes, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), *headers]}


def part(text: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": text, "more_body": more}


def says(*messages: Message) -> Attempt:
    async def attempt(body: bytes, send: Send) -> None:
        for message in messages:
            await send(message)

    return attempt


DIES = says()
ANSWERS = says(start(200, JSON, (b"x-request-id", b"ours"), (b"x-request-id", b"ours")), part(b"{}"))


def proxy(*attempts: Attempt) -> tuple[ASGIApp, list[bytes]]:
    """An application that behaves like Ray's proxy, one way each time; and the bodies that it was sent."""
    bodies: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body, more = body + message["body"], message.get("more_body", False)
        bodies.append(body)
        await attempts[len(bodies) - 1](body, send)

    return app, bodies


def ask(app: ASGIApp, body: list[dict[str, Any]] = BODY) -> list[Message]:
    """Everything that a client of this application is sent."""
    sent: list[Message] = []
    coming = [*body, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return coming.pop(0) if len(coming) > 1 else coming[0]

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Front(app)({"type": "http", "method": "POST", "path": "/", "headers": []}, receive, send))
    return sent


def error(sent: list[Message]) -> tuple[int, str]:
    found = json.loads(b"".join(message.get("body", b"") for message in sent[1:]))["error"]
    assert found["type"] == "server_error"
    return sent[0]["status"], found["message"]


def test_an_answer_passes_and_names_its_id_once() -> None:
    app, bodies = proxy(ANSWERS)
    begin, end = ask(app)
    assert begin["status"] == 200
    assert [value for name, value in begin["headers"] if name == b"x-request-id"] == [b"ours"]
    assert end["body"] == b"{}"
    assert bodies == [b"half and half"]


def test_a_request_whose_replica_says_nothing_goes_to_another() -> None:
    app, bodies = proxy(DIES, ANSWERS)
    assert [message.get("status", message.get("body")) for message in ask(app)] == [200, b"{}"]
    assert bodies == [b"half and half"] * 2


def test_it_does_so_once() -> None:
    app, bodies = proxy(DIES, DIES)
    assert error(ask(app)) == (503, "the replica of this request failed: try again")
    assert len(bodies) == 2


def test_a_body_too_large_to_keep_is_sent_once() -> None:
    app, bodies = proxy(DIES)
    assert error(ask(app, [{"type": "http.request", "body": bytes(2**20 + 1)}]))[0] == 503
    assert [len(body) for body in bodies] == [2**20 + 1]


def test_no_replica_decodes_for_a_client_that_has_left() -> None:
    app, bodies = proxy(DIES)
    assert ask(app, []) == []
    assert len(bodies) == 1


def test_a_stream_that_breaks_off_says_so() -> None:
    app, bodies = proxy(says(start(200, STREAM), part(b"data: 1\n\n", more=True)))
    *begun, last = ask(app)
    assert [message.get("body") for message in begun] == [None, b"data: 1\n\n"]
    assert json.loads(last["body"].removeprefix(b"data: "))["error"]["message"] == "the replica of this stream failed"
    assert last["body"].endswith(b"\n\n")
    assert not last.get("more_body", False)
    assert len(bodies) == 1


def test_a_whole_stream_ends_as_it_is() -> None:
    messages = start(200, STREAM), part(b"data: 1\n\n", more=True), part(b"")
    assert ask(proxy(says(*messages))[0]) == [start(200, STREAM), *messages[1:]]


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (404, b"Path '/' not found.", (503, "no replica takes requests: the server is starting or ending")),
        (408, b"Request 1 timed out.", (504, "Request 1 timed out.")),
        (503, b"too many wait", (503, "too many wait")),
    ],
)
def test_refusals_of_ray_get_openais_form(status: int, text: bytes, expected: tuple[int, str]) -> None:
    assert error(ask(proxy(says(start(status, PLAIN), part(text)))[0])) == expected


def test_what_a_replica_refuses_is_left_as_it_is() -> None:
    sent = ask(proxy(says(start(404, JSON), part(b'{"error": 1}')))[0])
    assert [message.get("status", message.get("body")) for message in sent] == [404, b'{"error": 1}']
