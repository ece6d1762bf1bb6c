"""What an operator sees: health, metrics, logs, and a server that ends in order."""

import json
import logging
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

import unmask
from tests.serve.live import CHAT, QUESTION, Live, Serving, until
from unmask.engine.engine import Engine, Limits
from unmask.models.denoiser import Denoiser
from unmask.serve.log import JsonLines
from unmask.serve.options import Options


def numbers(live: Live) -> dict[str, float]:
    """Every sample at /metrics, by name and labels."""
    with live.http() as client:
        text = client.get("/metrics").text
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_what_was_answered(serving: Serving, tiny: Denoiser) -> None:
    alone = unmask.generate(tiny, [QUESTION], max_new_tokens=64)[0]
    with serving(tiny, Limits(rows=4)) as live:
        for _ in range(3):
            live.chat(max_tokens=64)
        live.chat(temperature=9)
        samples = numbers(live)
    assert samples["unmask_requests_total /v1/chat/completions 200"] == 3
    assert samples["unmask_requests_total /v1/chat/completions 400"] == 1
    assert samples["unmask_completion_tokens_total"] == 3 * alone.tokens
    assert samples["unmask_forwards_total"] == 3 * alone.forwards
    assert samples["unmask_choices_total stop"] == 3
    assert samples["unmask_tokens_per_forward_sum"] == pytest.approx(3 * alone.tokens_per_forward)
    assert samples["unmask_first_text_seconds_count"] == 3
    assert samples["unmask_request_seconds_count /v1/chat/completions"] == 4
    for rule, tokens in alone.commits.items():
        assert samples[f"unmask_commits_total {rule}"] == 3 * tokens
    assert samples["unmask_batch_rows_sum"] == samples["unmask_forwards_total"]
    assert samples["unmask_forward_seconds_count"] == samples["unmask_batch_rows_count"] > 0
    assert samples["unmask_pool_pages"] == live.engine.load.all_pages
    assert samples["unmask_pool_used_pages"] == samples["unmask_running_requests"] == samples["unmask_waiting_requests"] == 0


def test_metrics_see_the_engine_at_work(serving: Serving, tiny: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, seen_enough = Denoiser.forward, threading.Event()

    def held(self: Denoiser, *arguments: Any) -> Any:
        if live.engine.load.running == 2:
            seen_enough.wait(60)
        return forward(self, *arguments)

    with serving(tiny, Limits(rows=2)) as live, ThreadPoolExecutor(6) as pool:
        monkeypatch.setattr(Denoiser, "forward", held)
        futures = [pool.submit(live.chat, max_tokens=64) for _ in range(6)]
        try:
            until(lambda: live.engine.load[:2] == (4, 2))
            seen = numbers(live)
        finally:
            seen_enough.set()
        assert [one.result().status_code for one in futures] == [200] * 6
    assert (seen["unmask_waiting_requests"], seen["unmask_running_requests"]) == (4, 2)
    assert 0 < seen["unmask_pool_used_pages"] <= seen["unmask_pool_pages"]


def test_a_log_line_says_what_a_request_was(live: Live) -> None:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(JsonLines().format(record))

    log, keep = logging.getLogger("unmask.serve"), Keep()
    log.addHandler(keep)
    log.setLevel(logging.INFO)
    try:
        with live.http(**{"x-request-id": "mine-1"}) as client:
            response = client.post("/v1/chat/completions", json={"messages": CHAT, "max_tokens": 64})
        assert response.headers["x-request-id"] == "mine-1"
        with live.http(**{"x-request-id": 'no"good'}) as client:
            other = client.get("/v1/models").headers["x-request-id"]
        assert re.fullmatch(r"req-[0-9a-f]{16}", other)
        while len(lines) < 2:
            time.sleep(0.01)
    finally:
        log.removeHandler(keep)
    first, second = map(json.loads, lines)
    alone = unmask.generate(live.model, [QUESTION], max_new_tokens=64)[0]
    assert first["request_id"] == "mine-1"
    assert first["path"] == "/v1/chat/completions"
    assert (first["status"], first["decoding"]) == (200, alone.method.name)
    assert (first["completion_tokens"], first["forwards"]) == (alone.tokens, alone.forwards)
    assert first["seconds"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert (second["request_id"], second["path"]) == (other, "/v1/models")


def test_health_tells_ready_from_alive(serving: Serving, tiny: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, seen_enough = Denoiser.forward, threading.Event()

    def held(self: Denoiser, *arguments: Any) -> Any:
        seen_enough.wait(60)
        return forward(self, *arguments)

    with serving(tiny, Limits(rows=1), Options(queue=1)) as live, live.http() as client:
        assert client.get("/health").json() == {"status": "ready", "ready": True, "waiting": 0, "running": 0}
        monkeypatch.setattr(Denoiser, "forward", held)
        with ThreadPoolExecutor(2) as pool:
            try:
                pool.submit(live.chat)
                until(lambda: live.engine.load[:2] == (0, 1))
                pool.submit(live.chat)
                until(lambda: live.engine.load[:2] == (1, 1))
                busy = client.get("/health")
            finally:
                seen_enough.set()
        assert (busy.status_code, busy.json()["status"]) == (503, "busy")
        live.app.state.service.closing = True
        assert (client.get("/health").status_code, client.get("/health").json()["status"]) == (503, "closing")
        assert client.get("/health/live").status_code == 200
        response = live.chat()
        assert response.status_code == 503
        assert "closing" in response.json()["error"]["message"]
        assert "retry-after" in response.headers


def test_an_engine_that_has_died_is_reported(serving: Serving, tiny: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    class Death(BaseException):
        pass

    def die(self: Engine) -> Any:
        raise Death

    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    with serving(tiny) as live, live.http() as client:
        monkeypatch.setattr(Engine, "step", die)
        assert live.chat().status_code == 500
        assert (client.get("/health").status_code, client.get("/health").json()["status"]) == (503, "failed")
        assert client.get("/health/live").status_code == 503


# --- faults


def test_a_failed_forward_ends_its_requests_and_nothing_else(
    serving: Serving, tiny: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = Denoiser.forward, [0]

    def faulty(self: Denoiser, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise RuntimeError("CUDA out of memory, secret address 0xdead")
        return forward(self, *arguments)

    monkeypatch.setattr(Denoiser, "forward", faulty)
    with serving(tiny) as live:
        response = live.chat(max_tokens=64)
        assert response.status_code == 500
        assert "its log says why" in response.json()["error"]["message"]
        assert "secret" not in response.text
        assert live.chat(max_tokens=64).status_code == 200
        calls[0] = 0
        body = {"messages": CHAT, "max_tokens": 64, "stream": True}
        with live.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = [line for line in stream.iter_lines() if line]
        assert "its log says why" in json.loads(lines[-1].removeprefix("data: "))["error"]["message"]
        assert "secret" not in "".join(lines)
        assert live.chat(max_tokens=64).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_what_it_held(serving: Serving, tiny: Denoiser, stream: bool) -> None:
    """The first events of a stream, or a tenth of a second of a plain request, then the connection is gone."""
    body = {"messages": CHAT, "max_tokens": 384, "n": 2, "stream": stream, "diffusion": {"method": "vanilla", "cache": "none"}}
    with serving(tiny) as live:
        whole = unmask.generate(tiny, [QUESTION], method=unmask.method("vanilla", cache="none"), max_new_tokens=384)[0]
        assert whole.seconds > 0.2
        if stream:
            with live.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()
                while "content" not in next(lines):
                    pass
        else:
            with pytest.raises(httpx2.ReadTimeout):
                httpx2.post(f"{live.url}/v1/chat/completions", json=body, timeout=0.1)
        live.wait_until_idle()
        samples = numbers(live)
        assert samples["unmask_requests_total /v1/chat/completions 499"] == 1
        assert "unmask_choices_total stop" not in samples


@contextmanager
def process(*arguments: str, module: tuple[str, ...] = ("unmask",)) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`unmask serve` as a user starts it, or by another module; the process and its address."""
    command = [sys.executable, "-m", *module, "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            first = server.stderr.readline()
            url = re.search(r"http://[\d.]+:\d+", first)
            assert url is not None, first
            while True:
                try:
                    if httpx2.get(f"{url[0]}/health").status_code == 200:
                        break
                except httpx2.TransportError:
                    time.sleep(0.05)
            yield server, url[0]
        finally:
            server.kill()


def test_a_signal_ends_the_server_in_order() -> None:
    """What runs is finished, no new request is let in, and the process ends by itself."""
    body = {"messages": CHAT, "max_tokens": 192, "diffusion": {"method": "vanilla", "cache": "none"}}
    with process() as (server, url), ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(httpx2.post, f"{url}/v1/chat/completions", json=body, timeout=60) for _ in range(2)]
        while httpx2.get(f"{url}/health").json()["running"] < 2:
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        responses = [one.result() for one in futures]
        server.wait(30)
        assert server.returncode == -signal.SIGTERM
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"{url}/health")
    assert [response.status_code for response in responses] == [200] * 2
    assert len({response.json()["choices"][0]["message"]["content"] for response in responses}) == 1


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(second: signal.Signals) -> None:
    body = {"messages": CHAT, "max_tokens": 448, "n": 64, "diffusion": {"method": "vanilla", "cache": "none"}}
    with process() as (server, url), ThreadPoolExecutor(1) as pool:
        future = pool.submit(httpx2.post, f"{url}/v1/chat/completions", json=body, timeout=60)
        while httpx2.get(f"{url}/health").json()["running"] == 0:
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        server.send_signal(second)
        server.wait(10)
        with pytest.raises(httpx2.TransportError):
            future.result()
