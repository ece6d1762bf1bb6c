"""The command line as a user meets it: output, JSON, exit codes, one line per error."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import unmask
from unmask.__main__ import main as start
from unmask.cli import main, report
from unmask.cli.choose import read_settings
from unmask.cli.compare import _show
from unmask.engine.request import Completion
from unmask.methods import TABLE
from unmask.methods.describe import describe
from unmask.methods.options import options, setting_of
from unmask.models.loading import locate
from unmask.serve.options import Options
from unmask.view.terminal import MASK, watching

QUESTION = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def answered(text: str) -> Completion:
    """A completion of this text in five forwards."""
    return Completion(
        text=text, token_ids=[1], tokens=9, forwards=5, query_tokens=9, finish_reason="stop", seconds=0.1,
        method=unmask.method("vanilla"), commits={}, cached_tokens=0,
    )  # fmt: skip


def test_generate_json_has_the_contract_and_equals_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    named = ("--method", "r2-dllm", "--set", "threshold=0.8")
    code, out, _ = run(capsys, "generate", QUESTION, "--max-new-tokens", "64", *named, "--json")
    assert code == 0
    document = json.loads(out.splitlines()[-1])
    assert {"text", "token_ids", "forwards", "tokens_per_forward", "seconds", "finish_reason", "method", "model"} <= set(
        document
    )
    method = unmask.method("r2-dllm", threshold=0.8)
    row = unmask.generate(unmask.load(), [QUESTION], method=method, max_new_tokens=64)[0]
    assert (document["token_ids"], document["forwards"], document["text"]) == (row.token_ids, row.forwards, row.text)
    assert document["method"] == "r2-dllm"
    assert document["settings"]["commit"] == {"rule": "threshold", "threshold": 0.8}


def test_generate_prints_the_answer_and_what_it_cost(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "generate", QUESTION, "--max-new-tokens", "64", "--method", "fast-dllm")
    assert code == 0
    assert "23 + 8 = 31" in out
    assert re.search(r"\[fast-dllm[^]]*\] \d+ tokens, \d+ forwards", out)


def test_a_method_file_with_a_setting_changed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(unmask.method("streaming-dllm").to_dict() | {"name": "mine"}))
    code, out, _ = run(
        capsys, "generate", QUESTION, "--method", str(file), "--set", "commit.threshold=0.7", "--max-new-tokens", "32", "--json"
    )
    assert code == 0
    document = json.loads(out.splitlines()[-1])
    assert document["method"] == "mine"
    assert document["settings"]["commit"]["threshold"] == 0.7


def test_compare_is_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "compare", QUESTION, "--max-new-tokens", "32", "--methods", "vanilla,r2-dllm")
    assert code == 0
    assert "vanilla" in out
    assert "forwards" in out
    code, out, _ = run(capsys, "compare", QUESTION, "--max-new-tokens", "32", "--methods", "vanilla,freedave", "--json")
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert [row["method"] for row in rows] == ["vanilla", "freedave"]
    assert rows[1]["forwards"] <= rows[0]["forwards"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", QUESTION, "--method", "r2dllm"], ["unknown method 'r2dllm'", "did you mean 'r2-dllm'"]),
        (["generate", QUESTION, "--set", "treshold=0.8"], ["treshold", "threshold"]),
        (["generate", QUESTION, "--set", "threshold"], ["key=value"]),
        (["generate", QUESTION, "--set", "threshold=2"], ["threshold", "from 0 to 1"]),
        (["generate", QUESTION, "--max-new-tokens", "many"], ["--max-new-tokens", "integer"]),
        (["generate", QUESTION, "--model", "./nowhere"], ["./nowhere", "not a folder"]),
        (["generate", QUESTION, "--method", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
        (["generate", ""], ["empty"]),
        (["generate", "apples " * 600], ["exceed", "512"]),
        (["generate", "<|mask|>"], ["mask id"]),
        (["generate", QUESTION, "--set", "threshold=["], ["threshold", "not valid YAML"]),
        (["generate", QUESTION, "--device", "gpu"], ["gpu", "auto"]),
        (["generate", QUESTION, "--nope"], ["--nope"]),
        (["generate"], ["prompt"]),
        (["eval", "arithmatic"], ["arithmatic", "arithmetic"]),
        (["eval", "arithmetic", "--limit", "0"], ["limit"]),
        (["compare", QUESTION, "--methods", ","], ["--methods", "vanilla"]),
        (["train", "pretrain", "--config", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
        (["train", "pretrain", "--config", "configs/unmask-tiny.yaml", "--set", "step=3"], ["step", "did you mean 'steps'"]),
        (["train", "collect", "--config", "configs/collect-tiny.yaml", "--set", "limit=0"], ["limit", "at least 1"]),
        (["train", "sft", "--config", "configs/r2-tiny.yaml", "--set", "data=no.jsonl"], ["no.jsonl", "no such file"]),
        (["train", "sft", "--config", "configs/r2-tiny.yaml", "--set", "learning_rate=fast"], ["learning_rate", "fast"]),
        (["train", "merge", "--config", "configs/r2-tiny.yaml"], ["without LoRA", "whole model"]),
        (
            [
                "train",
                "merge",
                "--config",
                "configs/r2-tiny.yaml",
                "--set",
                "output=nowhere",
                "--set",
                "lora={rank: 4, alpha: 4}",
            ],
            ["nowhere", "sft"],
        ),
        (["genrate", QUESTION], ["genrate"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert not out
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    for word in words:
        assert word in err


def test_a_fault_of_ours_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("unmask.models.loading.fill", broken)
    code, _, err = run(capsys, "generate", QUESTION)
    assert (code, err) == (1, "error: RuntimeError: two lines (--traceback shows where)\n")
    code, _, err = run(capsys, "generate", QUESTION, "--traceback")
    assert code == 1
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["generate", QUESTION], "the same command begins anew"),
        (["eval", "arithmetic"], "the same command goes on from the answers that are on disk"),
        (["eval", "arithmetic", "--fresh"], "without --fresh the same command goes on from the answers that are on disk"),
        (["calibrate", "arithmetic", "--budget", "5"], "the same command goes on from the answers that are on disk"),
    ],
)
def test_ctrl_c_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unmask.models.loading.fill", interrupted)
    assert run(capsys, *arguments) == (130, "", f"interrupted: {line}\n")


def test_ctrl_c_during_the_first_imports_is_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "unmask.cli":
                raise KeyboardInterrupt

    for name in [name for name in sys.modules if name.startswith("unmask.cli")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        start()
    assert (ended.value.code, capsys.readouterr().err) == (130, "interrupted before anything began\n")


def test_any_length_is_cut_from_whole_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    """As the server does: four blocks are decoded for 100 tokens."""
    arguments = ("--method", "fast-dllm-official", "--max-new-tokens", "100", "--json")
    code, out, _ = run(capsys, "generate", QUESTION, *arguments, "--model", "unmask-tiny-base")
    assert code == 0
    whole = unmask.generate(unmask.load("unmask-tiny-base"), [QUESTION], method="fast-dllm-official", max_new_tokens=128)[0]
    assert json.loads(out)["token_ids"] == whole.token_ids[:100]


def test_the_models_own_length_is_the_default(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(locate("unmask-tiny-base"), folder)
    (folder / "unmask.json").write_text('{"max_new_tokens": 40}')
    for named, tokens in (((), 40), (("--max-new-tokens", "64"), 64), (("--set", "max_new_tokens=64"), 64)):
        _, out, _ = run(capsys, "generate", QUESTION, "--model", str(folder), "--method", "fast-dllm", *named, "--json")
        assert len(json.loads(out)["token_ids"]) == tokens
    assert Options().of(unmask.load(folder)).max_new_tokens == 40
    (folder / "unmask.json").write_text('{"max_new_tokens": 0}')
    code, _, err = run(capsys, "generate", QUESTION, "--model", str(folder))
    assert code == 2
    assert "max_new_tokens must be a whole number of at least 1, got 0" in err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"unmask {unmask.__version__}\n", "")


def test_methods_lists_every_preset_and_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "methods")
    assert code == 0
    for name in TABLE:
        assert name.removesuffix("-official") in out
        rows = json.loads(run(capsys, "methods", name, "--json")[1])["options"]
        assert [row["name"] for row in rows] == options(name)
        assert all(row["meaning"] and row["values"] for row in rows)
    code, out, _ = run(capsys, "methods", "r2-dllm")
    assert re.search(r"^temporal_threshold +0\.7 +0 to 1 +\w", out, re.MULTILINE)
    assert run(capsys, "methods", "r2dllm")[0] == 2


@pytest.mark.parametrize("name", [name for name in TABLE if not name.endswith("-official")])
def test_a_default_that_is_listed_changes_nothing(name: str) -> None:
    """What `unmask methods` calls the default of an option is what the preset decodes with."""
    usual = unmask.method(name)
    for row in describe(name):
        part = setting_of(row.name, usual).part
        if row.default not in ("none",) and (part in usual.parts or part == row.name):
            assert unmask.method(name, **read_settings([f"{row.name}={row.default}"])) == usual, row


def test_a_different_answer_stands_below_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    _show("toy", "Why?", {"vanilla": answered("Mia buys 8, so 31."), "r2-dllm": answered("Mia buys 88, so 31.")})
    table, _, below = capsys.readouterr().out.partition("r2-dllm, [-gone-] and {+new+}:")
    assert re.search(r"^r2-dllm +5 .*see below$", table, re.MULTILINE)
    assert below.strip() == "Mia buys [-8,-] {+88,+} so 31."


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 0
    assert "generate" in out


def test_brackets_in_a_prompt_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "compare", "x[/tmp] y[i]", "--max-new-tokens", "32", "--methods", "r2-dllm")
    assert code == 0
    assert "x[/tmp] y[i]" in out


def test_help_is_instant() -> None:
    """It imports neither torch nor transformers."""
    code = (
        "import sys\n"
        "from unmask.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'yaml') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    assert "generate" in out
    assert "compare" in out


def test_watching_shows_masks_then_the_answer_in_the_rules_colours() -> None:
    model = unmask.load()
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system="standard")
    with watching(model, 64, console) as observer:
        row = unmask.generate(model, [QUESTION], max_new_tokens=64, observer=observer)[0]
    drawn = screen.getvalue()
    assert MASK in drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    last = plain[plain.rindex("Mia starts") :]
    assert "".join(last.split()).startswith("".join(row.text.split()))
    assert MASK not in last
    assert "■ threshold" in last


def test_training_from_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Collect, choose, tune, merge and decode with the result, as the README says."""
    configs = Path(__file__).parents[2] / "configs"
    data, output = f"output={tmp_path}/candidates.jsonl", f"output={tmp_path}/tuned"
    few = ["--set", "limit=4", "--set", "candidates=2", "--set", "temperature=0.3"]
    code, out, err = run(capsys, "train", "collect", "--config", str(configs / "collect-tiny.yaml"), "--set", data, *few)
    assert (code, out.strip(), err) == (0, f"{tmp_path}/candidates.jsonl", "")
    chosen = ["--config", str(configs / "r2-tiny.yaml"), "--set", f"data={tmp_path}/candidates.jsonl", "--set", output]
    chosen += ["--set", "lora={rank: 4, alpha: 4}"]
    short = [*chosen, "--set", "epochs=1", "--set", "batch_size=2"]
    code, out, _ = run(capsys, "train", "sft", *short, "--dry-run", "--json")
    budget = json.loads(out)
    assert code == 0
    assert budget["steps"] == budget["examples"] // 2
    code, out, _ = run(capsys, "train", "sft", *short)
    assert (code, out.strip()) == (0, f"{tmp_path}/tuned")
    code, out, _ = run(capsys, "train", "merge", *short)
    assert (code, out.strip()) == (0, f"{tmp_path}/tuned/merged")
    code, out, _ = run(capsys, "generate", QUESTION, "--model", out.strip(), "--json")
    assert "31" in json.loads(out)["text"]


def test_own_conversations_from_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One example shown, a run that leaves two out, and the memory it needs."""
    config = Path(__file__).parents[2] / "configs" / "chat-tiny.yaml"
    data = tmp_path / "talk.jsonl"
    good = {"prompt": "3 + 4?", "completion": "3 + 4 = 7."}
    data.write_text("nonsense\n" + f"{json.dumps(good)}\n" * 4 + json.dumps({"text": "Hi"}))
    settings = ["--config", str(config), "--set", f"data={data}", "--set", f"output={tmp_path}/tuned", "--set", "batch_size=4"]
    code, out, _ = run(capsys, "train", "sft", *settings, "--show-example", "1")
    assert code == 0
    assert out.startswith(f"{data}:2: ")
    assert re.search(r"^user +given +\d+  '<\|user\|> 3 \+ 4\?'$", out, re.MULTILINE)
    assert re.search(r"^assistant +asked ", out, re.MULTILINE)
    code, out, err = run(capsys, "train", "sft", *settings, "--set", "epochs=1")
    assert (code, out.strip()) == (0, f"{tmp_path}/tuned")
    assert err.splitlines()[:2] == [
        f"left out: {line}" for line in (tmp_path / "tuned" / "left_out.txt").read_text().splitlines()
    ]
    assert err.splitlines()[2].startswith("2 examples were left out")
    code, out, _ = run(capsys, "train", "sft", *settings, "--dry-run", "--json", "--set", "examples=null")
    assert (code, json.loads(out)["examples"]) == (0, 4)
    code, _, err = run(capsys, "train", "sft", *settings, "--show-example", "9")
    assert (code, err.strip()) == (2, "error: example 9: the data has 4")


def test_a_dry_run_of_the_real_thing_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(__file__).parents[2] / "configs" / "r2-llada-8b.yaml"
    code, out, _ = run(capsys, "train", "sft", "--config", str(config), "--dry-run")
    assert code == 0
    assert "8.016 billion, 83.89 million of them trained" in out
    assert "4,875 of 128 rows" in out
    assert "GiB" in out


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "out/answers.jsonl"), "error: out/answers.jsonl: No space left on device\n"),
        (OSError(5, "Input/output error"), "error: OSError: [Errno 5] Input/output error (--traceback shows where)\n"),
    ],
)
def test_an_error_of_the_system_is_told_with_its_file(error: OSError, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(error) == 1
    assert capsys.readouterr().err == line
