"""MBPP: its two files, the worked examples, and whether an answer passes its tests."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unmask
from tests.evals.shared_data import check_whole_file, places, write_lines
from unmask.evals import load, mbpp
from unmask.evals.reading import read
from unmask.evals.task import Source, Task


def row(task_id: int, code: str, *tests: str, **changes: Any) -> dict[str, Any]:
    asked = {"text": f"Write function number {task_id}.", "test_setup_code": "", "challenge_test_list": []}
    return {"task_id": task_id, "code": code, "test_list": list(tests)} | asked | changes


ROWS = [
    *[row(number, f"def plus(x):\r\n  return x + {number}", f"assert plus(1) == {number + 1}") for number in range(1, 11)],
    row(11, "def double(x):\r\n  return 2 * x", "assert double(2) == 4", "assert double(5) == 10"),
    row(
        12,
        "class Node:\n    def __init__(self, value):\n        self.value = value\n\ndef value(node):\n    return node.value",
        "assert value(node) == 7",
        test_setup_code="node = Node(7)",
    ),
    row(510, "import math\ndef helper(x): return x\ndef root(x):\n  return math.isqrt(helper(x))", "assert root(10) == 3"),
    row(511, "def beyond(): return 1", "assert beyond() == 1"),
]
DOUBLE = "def double(x):\n    return x + x\n"


def write(folder: Path) -> Path:
    write_lines(folder / "mbpp.jsonl", ROWS)
    return folder


def sanitized(folder: Path) -> Path:
    rows = []
    for entry in ROWS:
        kept = {name: entry[name] for name in ("task_id", "code", "test_list")}
        imports = [entry["test_setup_code"]] if entry["test_setup_code"] else []
        rows.append(kept | {"prompt": entry["text"], "test_imports": imports, "source_file": "by hand"})
    (folder / "sanitized-mbpp.json").write_text(json.dumps(rows, indent=2))
    return folder / "sanitized-mbpp.json"


@pytest.fixture(params=["written", *places("mbpp")], ids=str)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path) if request.param == "written" else request.param


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return load("mbpp", Source(data=write(tmp_path)))


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_references_pass_and_others_do_not(data: Path, whole: bool) -> None:
    task = load("mbpp", Source(data=data))
    assert (task.name, task.metrics, task.shots) == ("mbpp", ("pass",), 3)
    if not whole:
        task = load("mbpp", Source(data=data, limit=min(12, len(task.items)), seed=1))
    check_whole_file(task, lambda item, other: False)
    for item in task.items:
        nothing = "".join(f"def {name}(*_, **__):\n    return None\n\n" for name in item.facts["names"])
        assert nothing
        assert task.score(item, nothing) == {"pass": False}, item.id


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["written", *places("mbpp")], ids=str)
def test_every_sanitized_reference_passes(folder: Path | str, tmp_path: Path) -> None:
    """Of all its splits."""
    path = sanitized(tmp_path) if folder == "written" else Path(folder) / "sanitized-mbpp.json"
    task = load("mbpp", Source(data=path))
    rows = read(path, mbpp.FIELDS)
    assert len(rows) > len(task.items)
    for item in map(mbpp._item, rows):
        assert task.score(item, item.reference) == {"pass": True}, item.id


def test_both_files_hold_the_same_tasks(tmp_path: Path) -> None:
    one, other = load("mbpp", Source(data=write(tmp_path))), load("mbpp", Source(data=sanitized(tmp_path)))
    assert one.items == other.items
    assert [item.id for item in one.items] == ["11", "12", "510"]


def test_examples(tmp_path: Path) -> None:
    three = load("mbpp", Source(data=write(tmp_path)))
    prompt = three.items[0].prompt
    assert [f"x + {number}" in prompt for number in range(1, 11)] == [number in (2, 3, 4) for number in range(1, 11)]
    assert "\r" not in prompt
    assert prompt.count("You are an expert Python programmer, and here is your task: ") == 4
    assert prompt.endswith(
        " number 11. Your code should pass these tests:\n\nassert double(2) == 4\nassert double(5) == 10\n[BEGIN]\n"
    )
    assert three.stop == ("[DONE]",)
    none = load("mbpp", Source(data=tmp_path, shots=0))
    assert (none.shots, none.items[0].prompt.count("expert"), "[BEGIN]" in none.items[0].prompt) == (0, 1, False)
    assert "code block" in none.items[0].prompt
    assert "[DONE]" not in none.stop
    assert none.items[0].reference == three.items[0].reference
    nine = load("mbpp", Source(data=tmp_path, shots=9))
    assert nine.items[0].prompt.count("[DONE]") == 9
    with pytest.raises(unmask.ConfigError, match="has 9 examples, task ids 2 to 10"):
        load("mbpp", Source(data=tmp_path, shots=10))


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (DOUBLE, True),
        (f"{DOUBLE}[DONE]\n\nYou are an expert Python programmer", True),
        (f"[BEGIN]\n{DOUBLE}[DONE]", True),
        (f"Of course!\n[BEGIN]\n```python\n{DOUBLE}```\n[DONE]", True),
        (f"```python\n{DOUBLE}```\nIt passes:\n```python\nassert double(2) == 4\nassert double(5) == 10, 'fine'\n```", True),
        (f"{DOUBLE}```\nThat is it.", True),
        ("double = lambda x: 2 * x", True),
        (f"Here is the function:\n\n{DOUBLE}\nIt doubles.\n\n>>> double(2)\n4\n", True),
        ("class Solution:\n    def double(self, x):\n        return 2 * x", True),
        (f"~~~\n{DOUBLE}~~~\nAlternatively:\n~~~\ndef double(x):\n    return x\n~~~", True),
        ("Here is the function:\n\ndef double(x):\n    return x\n\nIt doubles.", False),
        ("", False),
        ("[DONE]", False),
        ("def triple(x):\n    return 2 * x", False),
        ("def double(x):\n    return 4", False),
        ("def double(x):\n    raise SystemExit(0)", False),
        ("def double(x):\n    while True: pass", False),
        ("It is 2 * x.", False),
        ("\ud800\0", False),
    ],
)
def test_answers(task: Task, answer: str, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = mbpp.sandbox.run
    monkeypatch.setattr(mbpp.sandbox, "run", lambda program: run(program, seconds=0.3))
    assert task.score(task.items[0], answer) == {"pass": right}


@given(answer=st.text() | st.lists(st.sampled_from(["```", "\n", "[BEGIN]", "[DONE]", "def double(x)", "    "])).map("".join))
def test_any_answer_becomes_a_program(answer: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.getbasetemp()) / "mbpp.jsonl"
    item = mbpp._item(read(path, mbpp.FIELDS)[10])
    assert mbpp._program(item, answer).endswith("assert double(2) == 4\nassert double(5) == 10\n")


def test_wrong_data(tmp_path: Path) -> None:
    for changes, words in (
        ({"test_list": []}, 'jsonl:2: expected a "text" or "prompt"'),
        ({"test_list": [1]}, 'jsonl:2: expected a "text" or "prompt"'),
        ({"text": None}, 'jsonl:2: expected a "text" or "prompt"'),
        ({"test_setup_code": 1}, 'jsonl:2: expected a "text" or "prompt"'),
        ({"task_id": "12"}, r'jsonl:2: expected \{"task_id": whole number'),
        ({"task_id": 11}, r'jsonl:2: expected another "task_id" in every row'),
    ):
        write_lines(tmp_path / "mbpp.jsonl", [ROWS[10], ROWS[11] | changes])
        with pytest.raises(unmask.ConfigError, match=words):
            load("mbpp", Source(data=tmp_path, shots=0))
    write_lines(tmp_path / "mbpp.jsonl", [ROWS[0], ROWS[-1]])
    with pytest.raises(unmask.ConfigError, match="none of the task ids 11 to 510"):
        load("mbpp", Source(data=tmp_path, shots=0))
