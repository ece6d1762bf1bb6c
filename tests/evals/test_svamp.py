"""SVAMP: the number that an answer states."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unmask
from tests.evals.shared_data import check_whole_file, places, write_lines
from unmask.evals import load
from unmask.evals.task import Source

ROWS = [
    {"ID": "a", "Body": "Mia has 3 pens and buys 4.", "Question": "How many has she?", "Answer": 7.0, "Type": "Addition"},
    {"ID": "b", "Body": "If 9 eggs fill 2 boxes", "Question": "how many fill one?", "Answer": 4.5, "Type": "Common-Divison"},
    {"ID": "c", "Body": "It was 2.", "Question": "And 3 less?", "Answer": -1, "Type": "Subtraction"},
    {"ID": "d", "Body": "A town.", "Question": "Its people?", "Answer": 1234567.0, "Type": "Addition"},
]


def write(folder: Path) -> Path:
    write_lines(folder / "test.json", ROWS)
    return folder


@pytest.fixture(params=["written", *places("svamp")], ids=str)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path) if request.param == "written" else request.param


def test_the_whole_file(data: Path) -> None:
    task = load("svamp", Source(data=data))
    assert (task.name, task.metrics, task.shots) == ("svamp", ("exact",), 0)
    check_whole_file(task, lambda item, other: item.facts["key"] == other.facts["key"])
    assert {item.group for item in task.items} <= {"Addition", "Subtraction", "Multiplication", "Common-Division"}


def test_prompts_ids_and_verdicts(tmp_path: Path) -> None:
    task = load("svamp", Source(data=write(tmp_path)))
    assert task.items[0].prompt.startswith("Mia has 3 pens and buys 4. How many has she?\n")
    assert task.items[1].prompt.startswith("If 9 eggs fill 2 boxes, how many fill one?\n")
    assert [item.id for item in load("svamp", Source(data=tmp_path / "test.json", limit=2)).items] == ["a", "b"]
    assert [item.reference for item in task.items] == [f"The answer is {number}." for number in (7, 4.5, -1, 1234567)]
    seven = task.items[0]
    for answer, right in [("3 + 4 = 7", True), ("7.0 pens", True), (r"\boxed{7}, not 8", True), ("8", False), ("seven", False)]:
        assert task.score(seven, answer) == {"exact": right}


@given(answer=st.text())
def test_any_answer_gets_a_verdict(answer: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    task = load("svamp", Source(data=write(tmp_path_factory.getbasetemp())))
    assert task.score(task.items[0], answer)["exact"] in (True, False)


def test_wrong_data(tmp_path: Path) -> None:
    with pytest.raises(unmask.ConfigError, match="svamp has no worked examples"):
        load("svamp", Source(data=write(tmp_path), shots=1))
    write_lines(tmp_path / "test.json", [ROWS[0], ROWS[1] | {"Answer": "four"}])
    with pytest.raises(unmask.ConfigError, match=r'test\.json:2: expected \{"ID": text, .*"Answer": number'):
        load("svamp", Source(data=tmp_path))
    write_lines(tmp_path / "test.json", [ROWS[0], ROWS[0]])
    with pytest.raises(unmask.ConfigError, match=r"test\.json:2: expected another \"ID\" in every row"):
        load("svamp", Source(data=tmp_path))
