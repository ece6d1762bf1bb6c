"""ParallelBench's files: every operation, and what is refused. The entries are our own."""

from pathlib import Path

import pytest

import unmask
from tests.evals.shared_data import write_lines
from unmask.evals import load
from unmask.evals.task import Source

LINE = '["Amy Ro", "Bo Li", "Cy"]'
ROWS = {
    "copy": {"input": {"context": LINE}, "answer": LINE},
    "insert_index": {"input": {"context": LINE, "word": "Di", "index": 1}, "answer": '["Amy Ro", "Di", "Bo Li", "Cy"]'},
    "remove_random": {"input": {"context": LINE}, "answer": {"input": ["Amy Ro", "Bo Li", "Cy"], "example": '["Bo Li", "Cy"]'}},
    "shuffle": {"input": {"context": LINE}, "answer": {"input": ["x"], "example": '["Cy", "Amy Ro", "Bo Li"]'}},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "waiting_line").mkdir()
    for kind, row in ROWS.items():
        write_lines(tmp_path / "waiting_line" / f"{kind}.jsonl", [row, row])
    return tmp_path


def test_every_file_of_the_folder(data: Path) -> None:
    task = load("parallelbench", Source(data=data))
    assert (task.metrics, len(task.items)) == (("list", "strict"), 8)
    assert {item.group for item in task.items} == set(ROWS)
    for item in task.items:
        assert task.score(item, item.reference) == {"list": True, "strict": True}
        assert task.score(item, f"Of course: {item.reference}.") == {"list": True, "strict": False}
        assert task.score(item, "none") == task.score(item, "") == task.score(item, "[]") == {"list": False, "strict": False}
    insert = next(item for item in task.items if item.group == "insert_index")
    assert 'Insert "Di" right behind number 1.' in insert.prompt
    removed = next(item for item in task.items if item.group == "remove_random")
    assert task.score(removed, "[Amy Ro, Cy]")["list"]
    only = load("parallelbench", Source(data=data / "waiting_line" / "copy.jsonl"))
    assert [item.id for item in only.items] == ["copy-0", "copy-1"]


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("copy", {"input": LINE, "answer": LINE}, 'an "input" whose "context" is a list'),
        ("copy", {"input": {"context": LINE}, "answer": ""}, 'an "answer" that is one'),
        ("replace_index", {"input": {"context": LINE, "index": 2}, "answer": LINE}, "'word' in the input of replace_index"),
        ("remove_random", {"input": {"context": LINE}, "answer": {"example": LINE}}, "an answer that remove_random accepts"),
        ("haiku", {"input": {"context": LINE}, "answer": LINE}, "the file's name says the operation"),
    ],
)
def test_malformed_files(tmp_path: Path, name: str, row: dict[str, object], words: str) -> None:
    path = write_lines(tmp_path / f"{name}.jsonl", [row])
    with pytest.raises(unmask.ConfigError, match=words):
        load("parallelbench", Source(data=path))


def test_no_data_and_no_shots(data: Path) -> None:
    with pytest.raises(unmask.ConfigError, match="--data"):
        load("parallelbench", Source())
    with pytest.raises(unmask.ConfigError, match="leave --shots out"):
        load("parallelbench", Source(data=data, shots=1))
