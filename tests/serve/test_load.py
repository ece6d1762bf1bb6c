"""The load benchmark as its user starts it: every answer right, and a document that says what it measured."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

LOAD = [sys.executable, str(Path(__file__).parents[2] / "benchmarks" / "load.py"), "--requests", "20"]


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["faults"] == {"failed": 0, "stuck": 0, "wrong": 0}
    assert found["complaints"] == []
    assert found["cores"] >= 1
    return found


@pytest.mark.slow
def test_eight_clients_for_five_seconds(tmp_path: Path) -> None:
    path = tmp_path / "load.json"
    command = [*LOAD, "--clients", "8", "--seconds", "5", "--rounds", "1", "-o", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = document(path)
    assert found["complete"]
    assert 0 < found["streams"] < found["requests"] == 20
    for side, clients in (("one", 1), ("many", 8)):
        assert found[side]["clients"] == clients
        assert found[side]["answers"] >= clients
        assert found[side]["tokens_per_second"] > 0
        for spread in (found[side]["seconds_of_an_answer"], found[side]["seconds_to_first_text"]):
            assert 0 < spread["p50"] <= spread["p99"] <= spread["max"]
    assert found["times"] == found["many"]["tokens_per_second"] / found["one"]["tokens_per_second"]
    assert [batch["rows"] for batch in found["bare_forwards"]] == [1, 8, 16, 32, 64]
    assert "0 failed, 0 stuck, 0 wrong" in ended.stdout


@pytest.mark.slow
def test_ctrl_c_leaves_a_document_of_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "load.json"
    command = [*LOAD, "--clients", "4", "--seconds", "600", "--rounds", "200", "-o", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while not path.exists():  # after the first round
            assert process.poll() is None
            time.sleep(0.1)
        assert not document(path)["complete"]
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 1
    found = document(path)
    assert not found["complete"]
    assert found["many"]["answers"] > 0
    assert "tokens/s of all clients against one" in said
