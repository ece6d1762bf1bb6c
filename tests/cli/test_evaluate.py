"""`unmask eval`."""

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import run

NAMED = {"method", "accuracy", "forwards_mean", "tokens_mean", "tokens_per_forward", "seconds_per_item", "tokens_per_second"}


def test_json_has_the_contract(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(
        capsys,
        "eval",
        "arithmetic",
        "--methods",
        "vanilla,r2-dllm",
        "--limit",
        "4",
        "--json",
        "--ablation",
        "--max-new-tokens",
        "64",
    )
    assert code == 0
    document = json.loads(out.splitlines()[-1])
    assert (document["task"], document["n"], document["model"]) == ("arithmetic", 4, "unmask-tiny")
    assert all(set(row) >= NAMED for row in document["rows"])
    assert 1 <= document["oracle_forwards_mean"] <= document["rows"][0]["forwards_mean"]
    assert {row["rule"] for row in document["rules"]["r2-dllm"]} <= {
        "threshold",
        "token_cluster",
        "confidence_cluster",
        "temporal",
    }
    folder = next((tmp_path / "runs" / "eval").iterdir())
    assert {path.name for path in folder.iterdir()} == {"vanilla.jsonl", "r2-dllm.jsonl", "rules.png", "summary.json"}


def test_an_unfinished_run_goes_on_and_a_finished_one_is_measured_anew(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("eval", "chain", "--methods", "fast-dllm", "--limit", "3", "--batch", "1")
    run(capsys, *command)
    path = next((tmp_path / "runs" / "eval").iterdir()) / "fast-dllm.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:3]))
    run(capsys, *command)
    assert path.read_text().splitlines(keepends=True)[:3] == whole[:3]
    run(capsys, *command)
    again = path.read_text().splitlines(keepends=True)
    assert [json.loads(line).get("answer") for line in again] == [json.loads(line).get("answer") for line in whole]
    assert again[1:3] != whole[1:3]  # the same answers, other seconds
    code, out, _ = run(capsys, *command, "--output", str(path.parent))
    assert code == 0
    assert "results:" in out
    assert path.read_text().splitlines(keepends=True) == again


def test_a_sweep_draws_its_frontier(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(
        capsys, "eval", "chain", "--methods", "fast-dllm,vanilla", "--limit", "2", "--sweep", "threshold=0.6,0.9",
        "--sweep", "cache=none,dual", "--max-new-tokens", "64", "--output", str(tmp_path / "swept"), "--json",
    )  # fmt: skip
    assert code == 0
    rows = [row["method"] for row in json.loads(out.splitlines()[-1])["rows"]]
    assert rows[0] == "fast-dllm threshold=0.6 cache=none"
    assert len(rows) == 6
    assert "vanilla cache=none" in rows
    assert (tmp_path / "swept" / "pareto.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sweep", "treshold=0.1,0.2"], "threshold"),
        (["--sweep", "threshold"], "key=first,second"),
        (["--methods", "r2-dllm", "--ablation"], "vanilla"),
        (["--methods", ","], "names no method"),
        (["--limit", "0"], "limit"),
        (["--data", "x"], "leave --data"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    code, _, err = run(capsys, "eval", "chain", *arguments)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
