"""`unmask reproduce`."""

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.test_cli import run
from tests.evals.test_reproduce import FILES, SETTINGS, entry
from unmask.files import writing


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a-table.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    return path


def test_a_table_beside_ours(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    command = ("reproduce", str(file), "--model", "unmask-tiny", "--limit", "2")
    code, out, _ = run(capsys, *command)
    assert code == 0
    assert "| arithmetic 0-shot, 160 | fast | 90.5 | 11 | - | - | " in out
    assert "chain, 512 tokens: not run, none of the 2 prompts" in out
    assert out.splitlines()[-1] == "results: runs/reproduce/a-table/unmask-tiny"
    folder = file.parent / "runs" / "reproduce" / "a-table" / "unmask-tiny"
    assert out.startswith((folder / "table.md").read_text())
    answers = (folder / "arithmetic-0shot-160" / "fast.jsonl").read_text()
    code, out, _ = run(capsys, *command, "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1]) == json.loads((folder / "table.json").read_text())
    assert (folder / "arithmetic-0shot-160" / "fast.jsonl").read_text() == answers


def test_another_model_is_named_in_the_result(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    settings = SETTINGS | {"model": "GSAI-ML/LLaDA-8B-Instruct"}
    file.write_text(yaml.safe_dump(settings))
    code, out, _ = run(
        capsys, "reproduce", str(file), "--model", "unmask-tiny", "--limit", "1", "--tasks", "arithmetic", "--output", "here"
    )
    assert code == 0
    assert "**Not comparable with the published numbers: the model is unmask-tiny, not GSAI-ML/LLaDA-8B-Instruct.**" in out
    found = json.loads(Path("here/table.json").read_text())
    assert [row["inside"] for row in found["entries"][0]["rows"]] == [None, None]


def test_two_processes_do_not_write_one_folder(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    with writing(file.parent / "out"):
        code, _, err = run(capsys, "reproduce", str(file), "--model", "unmask-tiny", "--limit", "1", "--output", "out")
    assert code == 2
    assert err == "error: out is being written by another process: wait, or use another output\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_published_numbers_need_neither_data_nor_weights(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    code, out, _ = run(capsys, "reproduce", str(path), "--dry-run", "--json")
    assert code == 0
    found = json.loads(out.splitlines()[-1])
    assert found["ours"] is None
    code, out, _ = run(capsys, "reproduce", str(path), "--dry-run")
    assert out.startswith(f"Published: {found['paper']}, table {found['table']}, {found['model']}")


@pytest.mark.parametrize(
    ("settings", "arguments", "words"),
    [
        (SETTINGS | {"modle": 1}, [], "unknown table setting 'modle'"),
        (SETTINGS | {"entries": entry(task="gsm8k")}, [], "--data"),
        (SETTINGS | {"entries": entry(task="gsm8k")}, ["--data", "nowhere"], "nowhere/gsm8k"),
        (SETTINGS | {"entries": entry(task="arithmatic")}, [], "did you mean 'arithmetic'"),
        (SETTINGS, ["--tasks", "chian"], "did you mean 'chain'"),
        (SETTINGS, ["--tasks", "chain", "--limit", "1"], "no entry of the table fits"),
        (SETTINGS, ["--limit", "0"], "limit"),
        (SETTINGS, ["--shots", "-1"], "shots"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], file: Path, settings: dict[str, object], arguments: list[str], words: str
) -> None:
    file.write_text(yaml.safe_dump(settings))
    code, _, err = run(capsys, "reproduce", str(file), "--model", "unmask-tiny", *arguments)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
