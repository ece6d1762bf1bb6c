"""What README, docs and examples say: every command parses, what needs no download runs, links lead somewhere."""

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
import yaml

import unmask
from tests.serve.live import Live, running
from unmask.cli import app, main
from unmask.engine.engine import Limits

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOREIGN = re.compile(r"GSAI-ML|Dream-org|openai/|DATA|FOLDER|\"\.\.\.\"|\.\.\.$|r2-llada|r2-dream|--tensor-parallel")
# What makes a command short enough for a test; the last value of an option counts.
SHORT = {
    "eval": ["--limit", "2", "--max-new-tokens", "32"],
    "calibrate": ["--limit", "60", "--trials", "2", "--max-new-tokens", "32"],
    "train pretrain": ["--set", "steps=2", "--set", "warmup=1"],
    "train collect": ["--set", "limit=2", "--set", "candidates=2"],
}
# Commands with tests of their own, which would run for hours, for ever, or on what an hour of others has made.
ELSEWHERE = re.compile(
    r"serve|batch|bench|train (head|merge|pretrain)|r2-tiny|unmask-tiny-parallel|tasks arithmetic|lm_eval|reproduce"
)


def blocks(page: Path, language: str) -> Iterator[str]:
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        if found[1] == language:
            yield found[2]


def commands() -> Iterator[list[str]]:
    """The arguments of every `unmask` command in a block or in one line of text, without its comment."""
    for page in PAGES:
        for block in blocks(page, ""):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                if found := re.match(r"(?:\w+=\S+ )?(?:torchrun .* -m )?unmask (.+)", line):
                    yield shlex.split(found[1], comments=True)


COMMANDS = list(commands())


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 40
    assert {"generate", "compare", "view", "eval", "serve", "train", "methods", "tasks", "batch", "bench"} <= {
        arguments[0] for arguments in COMMANDS
    }


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_parses(arguments: list[str]) -> None:
    """Its options exist and their values are read; nothing is run."""
    group, name, *rest = typer.main.get_command(app), *arguments
    if name == "train":
        group, name, *rest = group.commands[name], *rest  # type: ignore[attr-defined]
    group.commands[name].make_context(name, list(rest))  # type: ignore[attr-defined]
    for place, argument in enumerate(rest):
        if rest[place - 1] == "--config":
            assert isinstance(yaml.safe_load((ROOT / argument).read_text()), dict)


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


RUN = [line for line in COMMANDS if not FOREIGN.search(" ".join(line)) and not ELSEWHERE.search(" ".join(line))]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", RUN, ids=" ".join)
def test_a_command_that_needs_no_download_runs(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "conversations.jsonl").write_text('{"prompt": "3 + 4?", "completion": "3 + 4 = 7."}\n' * 16)
    monkeypatch.chdir(tmp_path)
    short = SHORT.get(arguments[0], SHORT.get(" ".join(arguments[:2]), []))
    assert run([*arguments, *short]) == (2 if arguments[0] == "calibrate" else 0)


def test_the_listing_commands_run(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["methods", "r2-dllm"], ["methods"], ["tasks"], ["--version"]):
        assert run(arguments) == 0
        assert capsys.readouterr().out


def snippets(page: str) -> list[str]:
    """The Python of a page that needs neither a download, nor a server, nor a file of the reader's."""
    own = re.compile(r'GSAI-ML|Dream-org|openai|"mine\.yaml"|package\.module')
    return ["\n".join(line for line in code.splitlines() if not own.search(line)) for code in blocks(ROOT / page, "python")]


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_snippets_run_in_their_order(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {}
    codes = [code for code in snippets(page) if "client." not in code and "What is a prime number?" not in code]
    assert codes
    for code in codes:
        exec(compile(code, page, "exec"), scope)
    assert "The answer is 31." in capsys.readouterr().out


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with running(unmask.load("unmask-tiny"), Limits()) as served:
        yield served


def test_the_client_of_the_readme_streams_the_answer(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [code for code in blocks(ROOT / "README.md", "python") if "openai" in code]
    exec(code.replace("http://127.0.0.1:8000", live.url), {})
    assert capsys.readouterr().out.strip().endswith(".")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("generate", "The answer is 31."),
        ("batch", "vanilla"),
        ("own_method", "forwards"),
        ("own_checkpoint", "fast-dllm at 0.95, 96 tokens at most"),
        ("fine_tune", "step 8: loss"),
        ("evaluate", "r2-dllm"),
        ("stream", "forwards"),
        ("infill", "2 of 2 right"),
    ],
)
def test_every_example_runs(
    name: str, words: str, live: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = [str(tmp_path / "mine")]
    given = {
        "own_checkpoint": folder,
        "fine_tune": folder,
        "evaluate": ["2"],
        "stream": [f"{live.url}/v1"],
        "infill": ["--problems", "2"],
    }
    monkeypatch.setattr(sys, "argv", [name, *given.get(name, [])])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert words in capsys.readouterr().out


def test_every_example_is_tried_here() -> None:
    tried = {"generate", "batch", "infill", "own_method", "own_checkpoint", "fine_tune", "evaluate", "stream"}
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == tried | {"picture"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
    for target in re.findall(r"`((?:unmask|configs|examples|tests|docs|benchmarks)/[\w./-]+\.\w+)`", text):
        assert (ROOT / target).exists(), target


def test_the_readme_is_short_and_says_first_what_it_is_not() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 208  # half of what it was
    assert any("What it is not yet" in line for line in lines[:25])
    start = lines.index("## Measured")
    rows = [line for line in lines[start : lines.index("## Real checkpoints")] if line.startswith("| `")]
    assert len(rows) <= 12
    assert all("`unmask " in row or "`make " in row or row.endswith("the same |") for row in rows)


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for named in re.findall(r"`make ([\w -]+)`", page.read_text()):
            assert set(named.split()) <= targets, f"{page.name}: make {named}"
