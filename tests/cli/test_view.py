"""`unmask view` and `unmask generate --trace` as a user meets them."""

import json
from pathlib import Path

import pytest

from unmask.cli import main
from unmask.view.trace import read

QUESTION = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"
SHORT = ("--max-new-tokens", "64")
NAMED = ("--method", "r2-dllm", "--set", "threshold=0.8")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_a_prompt_becomes_a_page_of_two_methods(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "decode.html"
    assert run(capsys, "view", QUESTION, "-o", str(page), *SHORT) == (0, f"{page}\n", "")
    text = page.read_text()
    assert '"method": "r2-dllm"' in text
    assert '"method": "fast-dllm"' in text


def test_a_trace_that_generate_kept_is_replayed_and_set_beside_another(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kept, other, page = tmp_path / "kept.json", tmp_path / "other.json", tmp_path / "both.html"
    code, out, _ = run(capsys, "generate", QUESTION, "--trace", str(kept), *NAMED, "--json", *SHORT)
    document = json.loads(out.splitlines()[-1])
    assert code == 0
    (trace,) = read(kept)
    assert (trace.text, trace.forwards, trace.method) == (document["text"], document["forwards"], "r2-dllm")
    assert trace.settings == document["settings"]
    code, out, _ = run(capsys, "view", str(kept))
    assert code == 0
    assert "r2-dllm on unmask-tiny" in out
    assert "31" in out
    assert run(capsys, "view", QUESTION, "--methods", "vanilla", "-o", str(other), *SHORT)[0] == 0
    assert run(capsys, "view", str(kept), str(other), "-o", str(page))[0] == 0
    assert '"method": "vanilla"' in page.read_text()


def test_watching_and_keeping_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    code, out, _ = run(capsys, "generate", QUESTION, "--trace", str(kept), *NAMED, "--watch", *SHORT)
    assert code == 0
    assert "₁ threshold" in out
    assert read(kept)[0].text.split()[0] in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["view", "nowhere.json"], ["nowhere.json", "No such file"]),
        (["view", "pyproject.toml"], ["pyproject.toml", "not a trace"]),
        (["view", QUESTION, "-o", "decode.png"], ["decode.png", "FILE.html", "FILE.json"]),
        (["view", QUESTION, "-o", "nowhere/decode.html"], ["nowhere", "does not exist"]),
        (["view", "How", "many?"], ["one prompt", "quotes"]),
        (["view", QUESTION, "--methods", "vanilla,r2-dllm,freedave"], ["3 methods", "two"]),
        (["view", QUESTION, "--methods", "r2dllm"], ["did you mean 'r2-dllm'"]),
        (["view", QUESTION, "--max-new-tokens", "0"], ["max_new_tokens", "at least 1"]),
        (["generate", QUESTION, "--trace", "kept.txt"], ["kept.txt", "FILE.json"]),
        (["view"], ["PROMPT"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err
