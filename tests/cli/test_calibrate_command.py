"""`unmask calibrate`."""

import json
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import run
from unmask.cli.calibrate import settings_file
from unmask.cli.choose import read_method
from unmask.files import writing
from unmask.methods import TABLE, load

BASE = ("--model", "unmask-tiny-base")  # it carries no settings of its own
CHAIN = ("calibrate", "chain", *BASE, "--method", "fast-dllm", "--max-new-tokens", "64", "--limit", "30", "--trials", "3")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_calibration_writes_a_method_that_others_read(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    command = (*CHAIN, "--against", "r2-dllm", "--budget", "60", "-o", "new/found.yaml", "--json")
    code, out, err = run(capsys, *command)
    assert (code, err) == (0, "")
    document = json.loads(out.splitlines()[-1])
    assert document["parts"] == {"search": 9, "validation": 12, "report": 9}
    assert (document["task"], document["method"], document["against"]) == ("chain", "fast-dllm", "r2-dllm")
    assert (document["budget"], document["n"], document["file"]) == (60, 30, "new/found.yaml")
    assert document["search"][0]["numbers"] == {"commit.threshold": 0.9}
    assert len(document["search"]) == 3
    assert document["passed"] == any(test["passed"] for test in document["validation"])
    names = ["against", "default", *(["calibrated"] if document["passed"] else [])]
    assert [row["method"] for row in document["rows"]] == names
    assert all(row["n"] == 9 for row in document["rows"])
    found = here / "new" / "found.yaml"
    assert read_method(str(found)).to_dict() == document["settings"]
    assert found.read_text().startswith("# unmask calibrate chain --method fast-dllm --budget 60 on unmask-tiny-base: 3 trials")
    again = run(capsys, *command)
    assert json.loads(again[1].splitlines()[-1]) == document
    code, _, _ = run(capsys, "generate", "Compute 12 - 9.", "--method", str(found), "--max-new-tokens", "32")
    assert code == 0


def test_without_a_certificate_the_method_is_kept_and_the_output_says_so(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    """Threshold 0 takes one forward per block, and no method is faster than that."""
    code, out, _ = run(capsys, *CHAIN, "--set", "threshold=0", "--budget", "60", "--seed", "1")
    assert code == 0
    assert "Nothing certified: no trial was faster than fast-dllm as it was." in out
    folder = next((here / "runs" / "calibrate").iterdir())
    assert {path.name for path in folder.iterdir()} == {".lock", "answers", "fast-dllm-60.yaml", "fast-dllm-60.json"}
    assert json.loads((folder / "fast-dllm-60.json").read_text())["passed"] is False
    written = (folder / "fast-dllm-60.yaml").read_text()
    assert "# Nothing certified" in written
    assert "--set threshold=0" in written
    assert read_method(str(folder / "fast-dllm-60.yaml")) == load("fast-dllm", threshold=0)


@pytest.mark.parametrize("name", TABLE)
def test_every_method_survives_its_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "method.yaml"
    path.write_text(settings_file(load(name), ["a line of more than a hundred characters: " + "word " * 30]))
    assert read_method(str(path)) == load(name)
    assert max(map(len, path.read_text().splitlines())) <= 102


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "-1"], "budget must be a loss in points, above 0 and at most 100, got -1"),
        (["--budget", "0.5"], "with 30 items a loss within 0.5 points cannot be certified: use --limit 1815"),
        (["--budget", "60", "--limit", "5"], "5 items are too few"),
        (["--budget", "60", "--limit", "0"], "limit must be a whole number of at least 1, got 0"),
        (["--budget", "60", "--method", "r2dllm"], "did you mean 'r2-dllm'"),
        (["--budget", "60", "--against", "vanila"], "did you mean 'vanilla'"),
        (["--budget", "60", "--trials", "0"], "trials must be a whole number of at least 2"),
        (["--budget", "60", "--data", "x"], "leave --data"),
        ([], "--budget"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], here: Path, arguments: list[str], words: str) -> None:
    code, _, err = run(capsys, *CHAIN, *arguments)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert list(here.iterdir()) == []


def test_without_optuna(capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr("unmask.load", None)
    code, _, err = run(capsys, *CHAIN, "--budget", "60")
    assert code == 2
    assert err == "error: calibrating needs optuna: in a clone of unmask run pip install -e '.[eval]'\n"
    assert list(here.iterdir()) == []


def test_two_processes_do_not_write_one_folder(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    with writing(here / "out"):
        code, _, err = run(capsys, *CHAIN, "--budget", "60", "--folder", "out")
    assert code == 2
    assert err == "error: out is being written by another process: wait, or use another output\n"
