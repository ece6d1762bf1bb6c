"""`unmask tasks`: training problems as lines that `unmask train sft` reads."""

import itertools
import json
from pathlib import Path

import pytest

from unmask.cli import main
from unmask.tasks import TASKS, problems
from unmask.tasks.problem import Problem


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["tasks", *arguments])
    return int(ended.value.code or 0)


def test_problems_are_different_right_and_never_held_out(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    assert run("arithmetic=2", "chain", "--limit", "200", "--seed", "3", "-o", str(path)) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["prompt"] for line in lines}) == len(lines) == 200
    assert 100 < sum(line["task"] == "arithmetic" for line in lines) < 170
    for line in lines:
        problem = Problem(task=line["task"], question=line["prompt"], worked="", key=line["answer"], steps=1)
        assert problem.split == "train"
        assert problem.verify(line["completion"])


@pytest.mark.parametrize("name", TASKS)
def test_a_wording_is_kept_in_every_sentence(name: str) -> None:
    """Two problems of one task with equal numbers of steps are then worded alike: their words differ only in what is given."""
    drawn = problems(name, "train", 0, "plain")
    first = [next(drawn) for _ in range(60)]
    again = problems(name, "train", 0, "plain")
    assert first == [next(again) for _ in range(60)]
    wordy = problems(name, "train", 0, "wordy")
    ours, theirs = (sum(len(problem.worked) for problem in made) for made in (first, [next(wordy) for _ in range(60)]))
    assert ours < theirs
    if name == "arithmetic":
        assert all(problem.worked.split()[1] == "starts" and " so " in problem.worked for problem in first)


def test_without_a_name_the_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in TASKS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["arithmatic"], "unknown task 'arithmatic': did you mean 'arithmetic'?"),
        (["chain=0"], "chain=0: write NAME or NAME=WEIGHT"),
        (["chain=much"], "chain=much: write NAME or NAME=WEIGHT"),
        (["waiting_line", "--wording", "plain"], "task 'waiting_line' has one wording"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert words in capsys.readouterr().err


def test_more_problems_than_there_are_is_no_endless_loop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Problem(task="chain", question="Compute 12 - 9.", worked="The answer is 3.", key="3", steps=1)
    monkeypatch.setattr("unmask.cli.tasks.problems", lambda *arguments: itertools.repeat(one))
    assert run("chain", "--limit", "2") == 2
    assert "--limit 2: chain have hardly more than 1 different questions" in capsys.readouterr().err
