"""`unmask batch`: every answer is that of `generate`, whatever was killed on the way; mistakes are one line."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unmask
from tests.serve.live import until
from unmask.cli import main
from unmask.errors import ConfigError
from unmask.serve.batch import Answerer, Share, _share
from unmask.serve.lines import Job, scan
from unmask.tasks import problems

ROOT = Path(__file__).parents[2]
# Each with what its answer must say; they stand between good ones.
BAD = {"": "not JSON", '{"prompt": "<|mask|>", "id": "m"}': "mask id", json.dumps({"prompt": "apples " * 600}): "exceed"}


def written(path: Path, count: int) -> list[dict[str, Any]]:
    """A file of questions with the bad lines among them; what it holds, {} for a bad one."""
    rows: list[dict[str, Any]] = []
    for problem, number in zip(problems({"arithmetic": 1.0}, "test", seed=1), range(count), strict=False):
        rows.append(
            {"prompt": problem.question, "key": problem.key, "id": f"q{number}", "max_new_tokens": 64 + 32 * (number % 3)}
        )
    text = [json.dumps(row) for row in rows]
    for place, bad in enumerate(BAD):
        text.insert(3 * place + 1, bad)
        rows.insert(3 * place + 1, {})
    path.write_text("\n".join(text))
    return rows


def check(rows: list[dict[str, Any]], answers: list[dict[str, Any]]) -> None:
    """One answer a line, in order, each that of `generate` for its line alone, or the error that its line deserves."""
    assert len(answers) == len(rows)
    model, bad = unmask.load(), list(BAD.values())
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True), start=1):
        if not row:
            assert answer["id"] == ("m" if bad[0] == "mask id" else number)
            assert bad.pop(0) in answer["error"]
            continue
        alone = unmask.generate(model, [row["prompt"]], method="r2-dllm", max_new_tokens=row["max_new_tokens"])[0]
        assert (answer["id"], answer["key"]) == (row["id"], row["key"])
        assert (answer["text"], answer["token_ids"]) == (alone.text, alone.token_ids)
        assert (answer["forwards"], answer["tokens"], answer["finish_reason"]) == (
            alone.forwards,
            alone.tokens,
            alone.finish_reason,
        )
        assert answer["tokens_per_forward"] == alone.tokens_per_forward
        assert answer["seconds"] > 0
    assert not bad


# --- without Ray --------------------------------------------------------------------------------------------------


def test_a_workers_answers_are_those_of_generate(tmp_path: Path) -> None:
    rows = written(tmp_path / "in.jsonl", 7)
    source = scan(tmp_path / "in.jsonl", ["key"])
    worker = Answerer(
        Job(model="unmask-tiny", method=unmask.method("r2-dllm"), keep=("key",)), source.path, device="cpu", rows=3
    )

    async def answered() -> list[dict[str, Any]]:
        """Two blocks at once, as Ray asks."""
        starts = np.asarray(source.starts)
        parts = [np.arange(6), np.arange(6, len(rows))]
        blocks = await asyncio.gather(*(worker({"line": p, "begin": starts[p], "end": starts[p + 1]}) for p in parts))
        await worker._engine.close()
        assert [block["line"].tolist() for block in blocks] == [part.tolist() for part in parts]
        return [json.loads(answer) for block in blocks for answer in block["answer"]]

    check(rows, asyncio.run(answered()))


@pytest.mark.parametrize(
    ("resources", "device", "workers", "local", "share"),
    [
        ({"CPU": 8.0}, "auto", None, True, Share(1, 8, 0)),
        ({"CPU": 8.0}, "cpu", 3, True, Share(3, 2, 0)),
        ({"CPU": 8.0, "GPU": 4.0}, "auto", None, True, Share(4, 1, 1)),
        ({"CPU": 8.0, "GPU": 4.0}, "cuda", 2, False, Share(2, 1, 1)),
        ({"CPU": 8.0, "GPU": 4.0}, "cpu", 2, False, Share(2, 1, 0)),
    ],
)
def test_what_each_worker_gets(
    resources: dict[str, float], device: str, workers: int | None, local: bool, share: Share
) -> None:
    assert _share(resources, device, workers, local=local) == share


@pytest.mark.parametrize(
    ("device", "workers", "words"),
    [
        ("cuda:1", None, "auto, cpu or cuda"),
        ("cuda", None, "a GPU each, and Ray has 0"),
        ("cpu", 3, "a core each, and Ray has 2"),
    ],
)
def test_what_there_is_not_enough_of(device: str, workers: int | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _share({"CPU": 2.0}, device, workers, local=True)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["batch", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_no_lines_make_an_empty_output_without_ray(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.serve.batch._ray", None)
    (tmp_path / "in.jsonl").write_text("")
    code, out, err = run(capsys, tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out).items() >= {"lines": 0, "errors": 0, "output": str(tmp_path / "out.jsonl")}.items()
    assert (tmp_path / "out.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.jsonl", "out.jsonl"], "no.jsonl: cannot be read (No such file or directory)"),
        (["in.jsonl", "in.jsonl"], "in.jsonl is there already and has no journal"),
        (["in.jsonl", "in.jsonl/out"], "in.jsonl/out: cannot be written"),
        (["in.jsonl", "out.jsonl", "--keep", "text"], "keep text: every answer has"),
        (["in.jsonl", "out.jsonl", "--model", "./nowhere"], "no model './nowhere'"),
        (["in.jsonl", "out.jsonl", "--method", "r2dllm"], "did you mean 'r2-dllm'"),
        (["odd.jsonl", "out.jsonl"], "odd.jsonl:1: unknown key 'temprature': did you mean 'temperature'?"),
        (["in.jsonl", "out.jsonl", "--workers", "0"], "--workers"),
        (["in.jsonl", "out.jsonl", "--address", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1 (Connection refused)"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"prompt": "a"}\n')
    Path("odd.jsonl").write_text('{"prompt": "a", "temprature": 1}\n')
    code, out, err = run(capsys, *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert words in err
    assert not Path("out.jsonl").exists()


# --- with Ray: half a minute a start on a busy machine ------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `unmask batch in.jsonl out.jsonl --keep key` there, in the source tree, as a process of its own."""
    begun: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        places = [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]
        command = [sys.executable, "-m", "unmask", "batch", *places, "--keep", "key", "--batch", "4", "--json", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("RAY_ADDRESS", None)
        begun.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def family(pid: int) -> dict[int, str]:
    """The processes that a process has started, and they; pid -> name."""
    parents, names = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            names[int(place.name)] = (place / "cmdline").read_text().replace("\0", " ")
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: names[child] for child in found - {pid}}


def answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    rows = written(tmp_path / "in.jsonl", 60)
    process = start("--workers", "2")
    journal = tmp_path / "out.jsonl.journal"
    until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 4, 300)
    workers = [pid for pid, name in family(process.pid).items() if name.startswith("ray::") and "Answerer" in name]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    assert not (tmp_path / "out.jsonl").exists(), "it was over before the worker was killed"
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out).items() >= {"lines": 63, "errors": 3}.items()
    check(rows, answers(tmp_path / "out.jsonl"))


@pytest.mark.slow
def test_killed_and_interrupted_it_goes_on(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """No line is answered twice, none is dropped, nothing is left running, and the third start ends it."""
    rows = written(tmp_path / "in.jsonl", 120)
    output, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"
    kept = b""
    for how, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        process = start()
        until(lambda kept=kept: journal.exists() and journal.read_bytes().count(b"\n") > kept.count(b"\n") + 4, 300)
        begun = family(process.pid)
        process.send_signal(how)
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out, err) == (code, "", "")
        until(lambda begun=begun: not any(Path(f"/proc/{pid}").exists() for pid in begun), 300)
        assert not output.exists()
        assert journal.read_bytes().startswith(kept)
        kept = journal.read_bytes()
    before = {row["line"]: row["answer"] for row in map(json.loads, kept.splitlines()[1:])}
    assert 0 < len(before) < len(rows)
    out, err = start().communicate(timeout=300)
    assert err == ""
    assert json.loads(out).items() >= {"lines": 123, "errors": 3}.items()
    made = answers(output)
    check(rows, made)
    assert {line: made[line] for line in before} == before  # to the last digit of their seconds: they were not asked again
    again, err = start("--seed", "1").communicate(timeout=300)
    assert (again, err.count("\n")) == ("", 1)
    assert "made with other settings" in err
    again, err = start().communicate(timeout=300)
    assert {**json.loads(again), "seconds": 0} == {**json.loads(out), "seconds": 0}
    assert answers(output) == made
