"""Evaluations joined: what is refused. The command itself is tested in tests/cli/test_evaluate.py."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unmask
from unmask.cli import results
from unmask.evals import load
from unmask.evals.compare import compare
from unmask.evals.run import evaluate
from unmask.evals.summary import table
from unmask.evals.task import Source

METHODS = {"fast-dllm threshold=0.9": unmask.method("fast-dllm")}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    runs = evaluate(unmask.load(), load("chain", Source(limit=2)), METHODS, folder=folder, max_new_tokens=32)
    results.keep({"task": "chain", "n": 2, "model": "one", "end_id": runs[0].end_id, "rows": table(runs)}, folder)
    return folder


def copy(folder: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(folder, to)
    document = json.loads((to / "summary.json").read_text()) | changes
    (to / "summary.json").write_text(json.dumps(document))
    return to


def test_weights_side_by_side(measured: Path, tmp_path: Path) -> None:
    document = compare([measured, copy(measured, tmp_path / "other", model="two")])
    first, second = document["rows"]
    assert (first["model"], second["model"]) == ("one", "two")
    smaller = compare([measured, copy(measured, tmp_path / "small", weights="int8")])
    assert smaller["models"] == ["one", "one (int8)"]
    assert second["against_first"]["accuracy_change"] == 0
    assert first["tpf_all"] == second["tpf_all"] > 0
    assert [curve["model"] for curve in document["curves"]] == ["one", "two"]


def drop_an_answer(folder: Path) -> None:
    path = next(folder.glob("fast-dllm*.jsonl"))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))


def other_items(folder: Path) -> None:
    path = next(folder.glob("fast-dllm*.jsonl"))
    path.write_text(path.read_text().replace("Compute", "Work out"))


def old_summary(folder: Path) -> None:
    (folder / "summary.json").write_text('{"task": "chain", "n": 2, "model": "two", "rows": []}')


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_an_answer, "1 of 2 answers; repeat the command"),
        (other_items, "answers other items than"),
        (old_summary, "repeat its command, which decodes nothing again"),
        (lambda folder: (folder / "summary.json").unlink(), "summary.json: cannot be read"),
        (lambda folder: next(folder.glob("fast*")).write_text("x\n"), "not a file of unmask eval"),
    ],
)
def test_what_cannot_be_joined(measured: Path, tmp_path: Path, spoil: Callable[[Path], Any], words: str) -> None:
    other = copy(measured, tmp_path / "other", model="two")
    spoil(other)
    with pytest.raises(unmask.ConfigError, match=words):
        compare([measured, other])


def test_one_folder_or_the_same_model_twice(measured: Path, tmp_path: Path) -> None:
    with pytest.raises(unmask.ConfigError, match="two folders"):
        compare([measured])
    with pytest.raises(unmask.ConfigError, match=r"fast-dllm threshold=0\.9 on one is in two of the folders"):
        compare([measured, copy(measured, tmp_path / "other")])
