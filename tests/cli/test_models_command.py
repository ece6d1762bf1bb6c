"""`unmask models`."""

import json

import pytest

from tests.cli.test_cli import run

FIELDS = {"name", "hub_id", "family", "parameters", "memory", "source"}


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "models")
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("llada-8b "))
    assert line.split()[:3] == ["llada-8b", "8.0B", "17.4"]
    assert "free here: " in out
    code, out, _ = run(capsys, "models", "--json")
    rows = json.loads(out)["models"]
    assert all(set(row) >= FIELDS for row in rows)
    assert {row["name"]: row["memory"] for row in rows}["sdar-1.7b"]["int8"] >= 2e9


def test_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "models", "dream-7b")
    assert code == 0
    for part in (
        "Dream-org/Dream-v0-Instruct-7B",
        "apache-2.0",
        "context       unknown",
        "table 8",
        "without --method: r2-dllm",
    ):
        assert part in out
    code, out, _ = run(capsys, "models", "dream-7b", "--json")
    assert json.loads(out)["models"][0]["licence"] == "apache-2.0"


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "models", "sdar-2b")
    assert code == 2
    assert "did you mean 'sdar-8b'" in err
