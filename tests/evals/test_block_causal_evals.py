"""Every command that decodes takes a block-causal model like any other."""

import json
from pathlib import Path

import pytest

from unmask.cli import main

MODEL = ["--model", "unmask-tiny-block"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The exit code, what went to the screen, and the errors."""
    with pytest.raises(SystemExit) as ended:
        main([*words])
    code = ended.value.code
    out, err = capsys.readouterr()
    return int(code or 0), out, err


def test_eval_and_its_ablation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["--limit", "2", "--methods", "vanilla,llada2.1,fast-dllm-v2", "--ablation", "--output", str(tmp_path), "--json"]
    code, out, err = run(capsys, "eval", "arithmetic", *MODEL, *wanted)
    assert code == 0, err
    rows = json.loads(out.splitlines()[-1])
    assert "llada2.1" in json.dumps(rows)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray, when it is imported
def test_batch_answers_with_any_number_of_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked, answered = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        {"prompt": "2+3*4=", "max_new_tokens": 13},
        {"prompt": "Compute 3 + 4.", "method": "llada2.1", "max_new_tokens": 16},
    ]
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = run(capsys, "batch", str(asked), str(answered), *MODEL)
    assert code == 0, err
    made = [json.loads(line) for line in answered.read_text().splitlines()]
    assert [len(row["token_ids"]) for row in made] == [13, 16]


@pytest.mark.parametrize("method", ["vanilla", "fast-dllm", "sdar", "llada2.1"])
def test_calibrate(tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    wanted = ["--method", method, "--budget", "60", "--limit", "10", "--trials", "2", "--max-new-tokens", "13"]
    written = ["--folder", str(tmp_path), "-o", str(tmp_path / "found.yaml"), "--json"]
    code, out, err = run(capsys, "calibrate", "chain", *MODEL, *wanted, *written)
    assert code == 0, err
    document = json.loads(out.splitlines()[-1])
    assert document["settings"]["block_length"] == 8
    assert len(document["search"]) == 2
    code, _, err = run(capsys, "generate", "2+3*4=", *MODEL, "--method", str(tmp_path / "found.yaml"))
    assert code == 0, err


def test_what_means_nothing_here_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for setting in ("cache=dual", "suffix_window=8", "prompt_interval=2"):
        method = "streaming-dllm" if setting.startswith("suffix") else "fast-dllm"
        code, _, err = run(capsys, "generate", "2+3*4=", *MODEL, "--method", method, "--set", setting)
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
