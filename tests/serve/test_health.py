"""Forwards that go wrong are seen: by the request, by health, in the log; and the process still ends when it is told to."""

import json
import logging
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from tests.serve.live import CHAT, Live, Serving, until
from tests.serve.test_operation import numbers, process
from unmask.models.denoiser import Denoiser
from unmask.serve.options import Options

Forward = Callable[..., Any]


def health(live: Live) -> tuple[int, str, int]:
    """Status and word of /health, and the status of /health/live."""
    with live.http() as client:
        ready = client.get("/health")
        return ready.status_code, ready.json()["status"], client.get("/health/live").status_code


def broken(after: int, real: Forward) -> Forward:
    """Forwards whose logits are no numbers, so many of them, and then good ones."""
    calls = [0]

    def forward(self: Denoiser, *arguments: Any) -> Any:
        calls[0] += 1
        return real(self, *arguments) * (float("nan") if calls[0] <= after else 1.0)

    return forward


def test_logits_that_are_no_numbers_are_an_error_and_not_an_answer(
    serving: Serving, tiny: Denoiser, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Denoiser, "forward", broken(2, Denoiser.forward))
    with serving(tiny) as live, caplog.at_level(logging.ERROR, "unmask.serve"):
        response = live.chat()
        assert response.status_code == 500
        assert "logits are no numbers" in response.json()["error"]["message"]
        assert health(live) == (503, "failing", 200)
        with (
            live.http() as client,
            client.stream("POST", "/v1/chat/completions", json={"messages": CHAT, "max_tokens": 32, "stream": True}) as stream,
        ):
            last = [line for line in stream.iter_lines() if line][-1]
        assert "logits are no numbers" in json.loads(last.removeprefix("data: "))["error"]["message"]
        assert numbers(live)["unmask_broken_answers_total"] == 2
        assert sum("no numbers" in record.message for record in caplog.records) == 2
        assert live.chat().status_code == 200
        assert health(live) == (200, "ready", 200)


def test_forwards_that_raise_turn_health_after_three(serving: Serving, tiny: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(self: Denoiser, *arguments: Any) -> Any:
        raise RuntimeError("no forward")

    with serving(tiny) as live:
        with monkeypatch.context() as patched:
            patched.setattr(Denoiser, "forward", raises)
            for _ in range(2):
                assert live.chat().status_code == 500
            assert health(live) == (200, "ready", 200)
            assert live.chat().status_code == 500
            assert health(live) == (503, "failing", 200)
        assert live.chat().status_code == 200
        assert health(live) == (200, "ready", 200)


def test_a_forward_that_hangs_turns_health_and_is_forgiven_when_it_ends(
    serving: Serving, tiny: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Denoiser.forward

    def slow(self: Denoiser, *arguments: Any) -> Any:
        time.sleep(3.0)
        return real(self, *arguments)

    with serving(tiny, options=Options(first_forward_seconds=0.2)) as live:
        with monkeypatch.context() as patched, live.http() as client:
            patched.setattr(Denoiser, "forward", slow)
            with suppress(httpx2.ReadTimeout):  # it leaves, and the forward goes on
                client.post("/v1/chat/completions", json={"messages": CHAT, "max_tokens": 32}, timeout=1.0)
            until(lambda: health(live) == (503, "stuck", 503), 10)
        until(lambda: health(live) == (200, "ready", 200), 20)


def test_a_forward_counts_as_stuck_before_its_requests_time_is_over() -> None:
    assert Options().forward_limits == (120.0, 540.0)
    assert Options(seconds=10.0).forward_limits == (9.0, 9.0)
    assert Options(forward_seconds=5.0, first_forward_seconds=900.0).forward_limits == (5.0, 900.0)


def test_sigterm_ends_a_server_whose_forward_hangs() -> None:
    with process("--seconds", "2", "--drain-seconds", "1", module=("tests.serve.faulty", "hang-first")) as (server, url):
        response = httpx2.post(f"{url}/v1/chat/completions", json={"messages": CHAT, "max_tokens": 32}, timeout=60)
        assert response.status_code == 504
        assert httpx2.get(f"{url}/health").json()["status"] == "stuck"
        server.send_signal(signal.SIGTERM)
        server.wait(30)  # a second, five for the thread, and what the machine needs


def test_a_second_signal_ends_it_at_once() -> None:
    with process("--seconds", "2", "--drain-seconds", "60", module=("tests.serve.faulty", "hang-first")) as (server, url):
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{url}/v1/chat/completions", json={"messages": CHAT, "max_tokens": 32}, timeout=0.5)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        server.send_signal(signal.SIGTERM)
        server.wait(5)
        assert server.returncode == -signal.SIGTERM
