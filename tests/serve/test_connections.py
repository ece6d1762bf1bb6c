"""Connections that do nothing end, there are only so many, and the page and a server without a key are kept to themselves."""

import socket
import time
from typing import Any

import pytest

from tests.serve.live import CHAT, Live, Serving, until
from unmask.models.denoiser import Denoiser
from unmask.serve.guard import host_name, is_address
from unmask.serve.options import Options


def connected(live: Live, sent: bytes = b"") -> socket.socket:
    """A connection over which some bytes were sent."""
    host, port = live.url.removeprefix("http://").split(":")
    one = socket.create_connection((host, int(port)), timeout=20)
    one.sendall(sent)
    return one


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nhost: x\r\n", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET"])
def test_a_connection_without_a_whole_header_is_ended(serving: Serving, tiny: Denoiser, sent: bytes) -> None:
    """Nothing, half a header, or half of a second one; a byte now and then does not help."""
    with serving(tiny, options=Options(header_seconds=0.5)) as live, connected(live, sent) as one:
        began = time.monotonic()
        one.settimeout(0.1)
        while True:
            try:
                if not one.recv(4096):
                    break
            except TimeoutError:
                pass
            except ConnectionError:
                break
            assert time.monotonic() - began < 20
            if sent.endswith(b"\r\n"):
                try:
                    one.sendall(b"x: y\r\n")
                except ConnectionError:
                    break


def test_a_request_takes_as_long_as_it_takes(serving: Serving, tiny: Denoiser) -> None:
    with serving(tiny, options=Options(header_seconds=0.2)) as live:
        response = live.chat(max_tokens=256, diffusion={"method": "vanilla", "cache": "none"})
        assert response.status_code == 200
        assert response.elapsed.total_seconds() > 0.2


def test_there_are_only_so_many_connections(serving: Serving, tiny: Denoiser) -> None:
    with serving(tiny, options=Options(connections=4)) as live:
        idle = [connected(live) for _ in range(4)]
        try:
            with connected(live) as one:
                answer = b"".join(iter(lambda: one.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"too many connections" in answer
        finally:
            for one in idle:
                one.close()

        def works() -> Any:
            try:
                return live.chat().status_code == 200
            except Exception:  # the server has not seen yet that they are closed
                return False

        until(works)


@pytest.mark.parametrize("header", [b"x: " + b"y" * 2**20, b"\r\n".join(b"x%d: y" % number for number in range(20_000))])
def test_a_large_header_is_refused(live: Live, header: bytes) -> None:
    with connected(live) as one:
        try:
            one.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n" + header + b"\r\n\r\n")
            answer = one.recv(4096)
        except ConnectionError:
            return  # refused before all of it was sent
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))


def test_the_page_runs_its_own_scripts_in_no_frame(live: Live) -> None:
    with live.http() as client:
        response, head = client.get("/"), client.head("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-frame-options"] == "DENY"
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(response.content)))


def test_a_server_for_this_machine_answers_to_its_own_names(serving: Serving, tiny: Denoiser) -> None:
    """A page of another site may give its own name the address 127.0.0.1."""
    with serving(tiny, options=Options(hosts=("localhost", "box.example.org"))) as live:
        for host, status in (("127.0.0.1", 200), ("localhost:8000", 200), ("BOX.example.org", 200), ("evil.example", 421)):
            with live.http(host=host) as client:
                assert client.get("/v1/models").status_code == status
                assert client.post("/v1/chat/completions", json={"messages": CHAT, "max_tokens": 32}).status_code == status
    assert is_address(host_name("[::1]:80"))
    assert not is_address(host_name("1.2.3.4.evil.example"))


@pytest.mark.parametrize(
    "fields",
    [
        {"diffusion": {"name": "x" * 900_000}},
        {"diffusion": {"method": {"commit": {"rule": "threshold"}, "name": {"a": [1]}}}},
        {"diffusion": {"method": {"commit": {"rule": "threshold"}, "name": "x" * 900_000}}},
        {"diffusion": {"method": {"commit": {"rule": "threshold"}, "name": "a\u202eb"}}},
        {"diffusion": {"method": {"commit": {"rule": "threshold"}, "suffix": "x" * 900_000}}},
        {"diffusion": {"method": {"commit": {"rule": "threshold"}, "draft": {"steps": "x" * 900_000}}}},
        {"diffusion": {"method": "x" * 900_000}},
        {"model": "x" * 900_000},
        {"x" * 900_000: 1},
    ],
)
def test_what_a_client_sent_is_quoted_in_short(live: Live, fields: dict[str, Any]) -> None:
    response = live.chat(**fields)
    assert response.status_code in (400, 404)
    assert len(response.content) < 1000
    assert response.json()["error"]["message"].isprintable()


def test_a_text_that_cannot_fit_is_refused_unread(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*arguments: object, **more: object) -> list[int]:
        raise AssertionError("it was encoded")

    monkeypatch.setattr(type(live.model.tokenizer), "encode", encode)
    for path, prompt in (
        ("chat/completions", {"messages": [{"role": "user", "content": "ab " * 300_000}]}),
        ("completions", {"prompt": "ab " * 300_000}),
    ):
        with live.http() as client:
            response = client.post(f"/v1/{path}", json={**prompt, "max_tokens": 32})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"
