"""`unmask eval`."""

import datetime
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import unmask
from tests.cli.test_cli import run
from tests.serve.live import until
from unmask.cli.choose import read_sweep
from unmask.files import writing

NAMED = {
    "tpf_all",
    "settings",
    "method",
    "accuracy",
    "forwards_mean",
    "tokens_mean",
    "tokens_per_forward",
    "seconds_per_item",
    "tokens_per_second",
}


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
    files = {"vanilla.jsonl", "r2-dllm.jsonl", "rules.png", "summary.json"}
    assert {path.name for path in folder.iterdir()} == {*files, "oracle", "ablation", ".lock"}


CHAIN = ("eval", "chain", "--methods", "vanilla,fast-dllm", "--limit", "3", "--batch", "1", "--max-new-tokens", "32")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(here: Path) -> Path:
    (folder,) = (here / "runs" / "eval").iterdir()
    return folder


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, running the model fails."""
    for module in ("run", "ablation"):
        monkeypatch.setattr(f"unmask.evals.{module}.generate", None)
    monkeypatch.setattr("unmask.evals.oracle._forwards", None)


def test_an_unfinished_run_resumes_after_its_last_answer(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    run(capsys, *CHAIN)
    path = results(here) / "fast-dllm.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:3]))
    code, _, err = run(capsys, *CHAIN)
    assert (code, err) == (0, "")
    again = path.read_text().splitlines(keepends=True)
    assert again[:3] == whole[:3]
    assert json.loads(again[3])["answer"] == json.loads(whole[3])["answer"]


@pytest.mark.parametrize("output", [(), ("--output", "mine")])
def test_a_finished_run_is_printed_from_disk(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch, output: tuple[str, ...]
) -> None:
    command = (*CHAIN, *output, "--ablation")
    _, table, err = run(capsys, *command)
    assert err == ""
    folder = here / "mine" if output else results(here)
    (folder / "notes.txt").write_text("mine")
    summary = (folder / "summary.json").read_text()
    (folder / "summary.json").unlink()
    for path in folder.glob("*.jsonl"):
        os.utime(path, (10**9, 10**9))
    no_decoding(monkeypatch)
    when = datetime.datetime.fromtimestamp(10**9).strftime("%Y-%m-%d %H:%M")
    code, out, err = run(capsys, *command)
    assert (code, out) == (0, table)
    assert err == f"all answers are on disk (measured {when}); --fresh measures anew\n"
    assert [path.stat().st_mtime for path in folder.glob("*.jsonl")] == [10**9] * 2
    assert (folder / "summary.json").read_text() == summary
    assert (folder / "notes.txt").read_text() == "mine"


def test_fresh_moves_the_old_folder_aside_with_all_it_holds(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    command = (*CHAIN, "--output", "out")
    run(capsys, *command)
    before = (here / "out" / "fast-dllm.jsonl").read_text()
    for number in (1, 2):
        (here / "out" / "notes.txt").write_text(f"mine {number}")
        code, out, err = run(capsys, *command, "--fresh")
        assert (code, err) == (0, f"out is now out.{number}\n")
        assert "results: out" in out
        assert (here / f"out.{number}" / "notes.txt").read_text() == f"mine {number}"
        assert not (here / "out" / "notes.txt").exists()
    assert (here / "out.1" / "fast-dllm.jsonl").read_text() == before
    again = (here / "out" / "fast-dllm.jsonl").read_text()
    assert again != before  # the same answers, other seconds
    assert [json.loads(line).get("answer") for line in again.splitlines()] == [
        json.loads(line).get("answer") for line in before.splitlines()
    ]


@pytest.mark.parametrize("phase", ["run.generate", "oracle._forwards", "ablation.generate"])
def test_ctrl_c_in_any_phase_leaves_what_is_done(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    command = (*CHAIN, "--ablation")
    calls = []
    module, _, name = phase.partition(".")
    real = getattr(importlib.import_module(f"unmask.evals.{module}"), name)

    def stop(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(f"unmask.evals.{phase}", stop)
        assert run(capsys, *command)[0] == 130
    kept = {path: path.read_text() for path in results(here).rglob("*.jsonl")}
    assert any(text.count("\n") > 1 for text in kept.values())
    assert run(capsys, *command)[0] == 0
    assert all(path.read_text().startswith(text) for path, text in kept.items())
    no_decoding(monkeypatch)
    assert run(capsys, *command)[0] == 0


@pytest.mark.parametrize("option", [("--ablation",), ("--sweep", "cache=none,dual")])
def test_without_matplotlib_nothing_is_decoded(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("unmask.load", None)
    code, _, err = run(capsys, *CHAIN, *option)
    assert code == 2
    assert err == f"error: the picture of {option[0]} needs matplotlib: in a clone of unmask run pip install -e '.[eval]'\n"
    assert list(here.iterdir()) == []


def test_a_picture_that_fails_leaves_table_and_summary(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unmask.evals.picture.pareto", fail)
    code, out, err = run(capsys, *CHAIN, "--sweep", "threshold=0.6,0.9")
    assert code == 1
    assert "results: " in out
    assert err.startswith("error: OSError: [Errno 28] No space left on device")
    assert len(json.loads((results(here) / "summary.json").read_text())["rows"]) == 3


def test_two_processes_do_not_write_one_folder(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    with writing(here / "out"):
        for extra in ((), ("--fresh",)):
            code, _, err = run(capsys, *CHAIN, "--output", "out", *extra)
            assert code == 2
            assert err == "error: out is being written by another process: wait, or use another output\n"
    assert [path.name for path in (here / "out").iterdir()] == [".lock"]


def test_a_killed_run_resumes(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    command = ("eval", "chain", "--methods", "fast-dllm", "--limit", "60", "--batch", "1", "--output", "out")
    environment = os.environ | {"PYTHONPATH": str(Path(unmask.__file__).parents[1])}
    path = here / "out" / "fast-dllm.jsonl"
    with subprocess.Popen([sys.executable, "-m", "unmask", *command], env=environment) as child:
        until(lambda: path.exists() and path.read_bytes().count(b"\n") > 3, 120)
        child.send_signal(signal.SIGKILL)
    kept = path.read_text()
    whole = kept[: kept.rindex("\n") + 1]
    assert whole.count("\n") > 3
    assert run(capsys, *command)[0] == 0
    assert path.read_text().startswith(whole)
    assert path.read_text().count("\n") == 61


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
    curves = json.loads(out.splitlines()[-1])["curves"]
    assert [(curve["method"], curve["cache"]) for curve in curves] == [
        ("fast-dllm cache=none", "none"),
        ("fast-dllm cache=dual", "dual"),
    ]
    assert all(curve["values"] == [0.6, 0.9] and len(curve["points"]) == 3 for curve in curves)
    assert [curve["baseline"] for curve in curves] == ["vanilla cache=none", "vanilla cache=dual"]


def test_results_of_several_models_are_joined(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    wanted = ("--methods", "vanilla,fast-dllm", "--limit", "2", "--sweep", "threshold=0.6,0.9", "--max-new-tokens", "32")
    for model in ("unmask-tiny", "unmask-tiny-r2"):
        assert run(capsys, "eval", "chain", "--model", model, *wanted, "--output", model)[0] == 0
    code, out, err = run(capsys, "eval", "--compare", "unmask-tiny", "unmask-tiny-r2", "--output", "both", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out.splitlines()[-1])
    assert document["models"] == ["unmask-tiny", "unmask-tiny-r2"]
    assert [row["model"] for row in document["rows"]] == ["unmask-tiny"] * 3 + ["unmask-tiny-r2"] * 3
    assert len(document["curves"]) == 2
    assert len({curve["best"] for curve in document["curves"]}) == 1
    assert (here / "both" / "pareto.png").exists()
    code, out, _ = run(capsys, "eval", "--compare", "unmask-tiny", "unmask-tiny-r2", "--output", "both")
    assert code == 0
    assert out.count("AUP") == 2


def test_a_grid_of_ten() -> None:
    names = list(read_sweep("vanilla,fast-dllm", ["threshold=grid"]))
    assert names[0] == "vanilla"
    assert (len(names), names[-1]) == (11, "fast-dllm threshold=0.997")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sweep", "treshold=0.1,0.2"], "threshold"),
        (["--sweep", "threshold"], "key=first,second"),
        (["--methods", "r2-dllm", "--ablation"], "vanilla"),
        (["--methods", "vanilla,freedave", "--ablation"], "without drafts"),
        (["--methods", ","], "names no method"),
        (["--limit", "0"], "limit"),
        (["--data", "x"], "leave --data"),
        (["sorting"], "one task at a time"),
        (["--compare"], "two folders"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    code, _, err = run(capsys, "eval", "chain", *arguments)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
