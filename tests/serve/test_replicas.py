"""A whole `unmask serve --replicas 2` in processes of its own: Ray takes its time to start."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import unmask
from tests.serve.live import until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "serve").glob("*.yaml"))
KEY = "a-key"
QUESTIONS = [f"Mia has {apples} apples. On Monday Mia buys 8. How many apples does Mia have?" for apples in range(20, 28)]
SLOWLY = {"diffusion": {"method": "vanilla"}}  # a forward a token


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "UNMASK_API_KEY": KEY}


class Replicated:
    """`unmask serve --replicas 2` in a process, and what it says on stderr."""

    def __init__(self, folder: Path, model: str = "unmask-tiny") -> None:
        self.model = model
        command = [sys.executable, "-m", "unmask", "serve", "--model", model, "--replicas", "2", "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(), cwd=folder)
        self.lines: list[str] = []
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        until(lambda: bool(self._places()) or self.process.poll() is not None, 180)
        assert self._places(), "".join(self.lines)
        self.url = self._places()[0]
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=120)

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                self.lines.append(line)

    def end(self) -> None:
        """Unless it has ended."""
        self.client.close()
        self.process.terminate()
        self.process.wait(120)
        self._listener.join()

    def _places(self) -> list[str]:
        return re.findall(rf"2 replicas of {self.model} at (\S+) ", "".join(self.lines))

    def log(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The requests that have ended: the replica's process, and what it said."""
        for line in list(self.lines):
            if found := re.search(r"ServeReplica\S* pid=(\d+)\)\S* (\{.*\})", line):
                yield int(found[1]), json.loads(found[2])

    def processes(self) -> dict[int, str]:
        """Everything that the command has started, by what it calls itself."""
        table = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in table.splitlines()]
        children, names = [(int(parent), int(pid)) for pid, parent, _ in rows], {int(pid): name for pid, _, name in rows}
        found = [self.process.pid]
        for ancestor in found:
            found += [pid for parent, pid in children if parent == ancestor]
        return {pid: names[pid] for pid in found[1:]}

    def replicas(self) -> set[int]:
        return {pid for pid, name in self.processes().items() if name.startswith("ray::ServeReplica")}

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=60)

    def ask(self, question: str, *, stream: bool, slowly: bool = False) -> str:
        chat: Any = {"model": "unmask-tiny", "messages": [{"role": "user", "content": question}], "max_tokens": 64}
        chat |= {"extra_body": SLOWLY} if slowly else {}
        if not stream:
            return str(self.client.chat.completions.create(**chat).choices[0].message.content)
        return "".join(part.choices[0].delta.content or "" for part in self.client.chat.completions.create(**chat, stream=True))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    server = Replicated(tmp_path_factory.mktemp("elsewhere"))
    try:
        yield server
    finally:
        server.end()


@pytest.fixture(scope="module")
def alone() -> dict[str, str]:
    """What each question is answered by a model that has nobody else to answer."""
    model = unmask.load("unmask-tiny")
    return {question: unmask.generate(model, [question], max_new_tokens=64)[0].text for question in QUESTIONS}


def test_both_replicas_answer_as_one_model_alone(server: Replicated, alone: dict[str, str]) -> None:
    def ask(place: int) -> str:
        return server.ask(QUESTIONS[place % 8], stream=place % 2 == 0)

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(ask, range(24)))
    assert said == [alone[QUESTIONS[place % 8]] for place in range(24)]
    until(lambda: sum(about["path"] == "/v1/chat/completions" for _, about in server.log()) == 24)
    assert {pid for pid, about in server.log() if about["path"] == "/v1/chat/completions"} == server.replicas()


def test_a_stream_comes_as_it_is_written(server: Replicated) -> None:
    chat: Any = {"model": "unmask-tiny", "messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 64}
    began, came = time.monotonic(), []
    for _ in server.client.chat.completions.create(**chat, stream=True, extra_body=SLOWLY):
        came.append(time.monotonic() - began)
    assert len(came) > 4
    assert came[0] < came[-1] / 2  # who speaks is said before the first forward


def test_the_server_is_that_of_a_single_process(server: Replicated) -> None:
    assert server.get("/health").json()["status"] == "ready"
    assert "unmask" in server.get("/").text
    assert server.get("/v1/models").status_code == 401
    assert [card.id for card in server.client.models.list()] == ["unmask-tiny"]
    with pytest.raises(openai.BadRequestError, match="unknown method 'vanila'"):
        server.client.completions.create(model="unmask-tiny", prompt="Mia", extra_body={"diffusion": {"method": "vanila"}})
    answer = httpx2.get(f"{server.url}/health", headers={"x-request-id": "mine"})
    assert answer.headers.get_list("x-request-id") == ["mine"]


def test_metrics_of_any_replica_are_those_of_all(server: Replicated) -> None:
    def told() -> float:
        line = re.search(
            r'unmask_requests_total\{endpoint="/v1/chat/completions",status="200"\} (\S+)', server.get("/metrics").text
        )
        return float(line[1]) if line else 0

    before = told()
    for question in QUESTIONS:
        server.ask(question, stream=False)
    until(lambda: told() == before + 8)
    assert {told() for _ in range(10)} == {before + 8}
    assert {pid for pid, about in server.log() if about["path"] == "/metrics"} == server.replicas()


def test_a_client_that_leaves_frees_its_row(server: Replicated) -> None:
    chat: Any = {"model": "unmask-tiny", "messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 256}
    numbers = set()
    for _ in range(8):
        stream = server.client.chat.completions.create(**chat, stream=True, extra_body=SLOWLY)
        numbers.add(next(stream).id.removeprefix("chatcmpl-"))
        stream.close()

    def told() -> list[dict[str, Any]]:
        return [about for _, about in server.log() if about["request_id"] in numbers]

    until(lambda: {about["request_id"] for about in told()} == numbers)
    assert {about["message"] for about in told()} == {"request"}
    assert not any("forwards" in about for about in told())  # which an answer that was written to its end has


def test_a_killed_replica_is_replaced_and_hurts_its_own_streams_alone(server: Replicated, alone: dict[str, str]) -> None:
    ended, saw = threading.Event(), Counter[str]()

    def ask(place: int) -> None:
        question, stream = QUESTIONS[place % 8], place % 2 == 0
        while not ended.is_set():
            try:
                assert server.ask(question, stream=stream, slowly=True) == expected[question]
                saw["answers"] += 1
            except openai.APIError as error:
                saw["broken streams" if stream and "the replica of this stream failed" in str(error) else repr(error)] += 1

    expected = {question: server.ask(question, stream=False, slowly=True) for question in QUESTIONS}
    killed, kept = sorted(server.replicas())
    with ThreadPoolExecutor(12) as pool:
        began, asked = time.monotonic(), [pool.submit(ask, place) for place in range(12)]
        until(lambda: saw["answers"] >= 12)
        time.sleep((time.monotonic() - began) / 2)  # to the middle of the next answers, which all begin at once
        os.kill(killed, signal.SIGKILL)
        until(lambda: any(pid not in (killed, kept) for pid, _ in server.log()), 180)
        ended.set()
        for one in asked:
            one.result(120)
    assert saw.keys() == {"answers", "broken streams"}  # what had not been begun was asked again
    assert saw["broken streams"] <= 6
    assert len(server.replicas()) == 2
    assert kept in server.replicas()


def test_told_to_end_it_finishes_what_runs_and_leaves_nothing(server: Replicated) -> None:
    began = server.processes()
    assert sum(name.startswith("ray::") for name in began.values()) >= 4
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(server.ask, QUESTIONS[0], stream=place % 2 == 0, slowly=True) for place in range(6)]
        until(lambda: any(server.get("/health").json()["running"] for _ in range(4)))
        server.process.terminate()
        said = {one.result(120) for one in asked}
    assert len(said) == 1
    assert server.process.wait(60) == 0
    until(lambda: not any(alive(pid, name) for pid, name in began.items()), 20)


def alive(pid: int, name: str) -> bool:
    listed = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
    return listed == name
