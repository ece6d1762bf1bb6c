"""MATH-500: answers compared by their value, however a model writes them."""

import concurrent.futures
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unmask
from tests.evals.shared_data import check_whole_file, places, write_lines
from unmask.evals import load
from unmask.evals.math_verifier import MathVerifier
from unmask.evals.task import Item, Source, Task

KEYS = [r"\frac{1}{2}", r"\left( 3, \frac{\pi}{2} \right)", "x^2 - 1", r"10,\!080", r"\text{even}", r"(-\infty, 2)"]
ROWS: list[dict[str, Any]] = [
    {
        "problem": f"Find it, please ({number}).",
        "solution": f"First $7$, so $\\boxed{{{key}}}.$",
        "answer": key,
        "level": 1 + number % 5,
        "unique_id": f"test/{number}.json",
    }
    for number, key in enumerate(KEYS)
]


def write(folder: Path) -> Path:
    write_lines(folder / "test.jsonl", ROWS)
    return folder


@pytest.fixture(params=["written", *places("math500")], ids=str)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path) if request.param == "written" else request.param


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return load("math500", Source(data=write(tmp_path_factory.mktemp("math500"))))


def value(item: Item) -> str:
    """One key is 5, the next one x=5: each answers the other's problem."""
    return item.facts["key"].rpartition("=")[2]


def test_the_whole_file(data: Path) -> None:
    task = load("math500", Source(data=data))
    assert (task.name, task.metrics, task.shots) == ("math500", ("exact",), 0)
    check_whole_file(task, lambda item, other: value(item) == value(other))
    assert {item.group for item in task.items} == set("12345")


def test_prompts_and_ids(tmp_path: Path) -> None:
    whole = load("math500", Source(data=write(tmp_path)))
    assert whole.items[0].prompt.startswith("Find it, please (0).\n\n")
    assert r"\boxed{}" in whole.items[0].prompt
    some = load("math500", Source(data=tmp_path / "test.jsonl", limit=2, seed=1)).items
    assert len(some) == 2
    assert all(item in whole.items for item in some)


@pytest.mark.parametrize(
    ("place", "answer", "right"),
    [
        (0, r"\boxed{0.5}", True),
        (0, r"\boxed{\dfrac12}", True),
        (0, r"\boxed{\frac{2}{4}}", True),
        (0, r"The answer is $\frac{1}{2}$.", True),
        (0, "the answer is 1/2.", True),
        (0, r"\boxed{2}. The answer is $\frac{1}{2}$.", False),
        (0, r"\boxed{\frac{1}{2}} but no: \boxed{\frac{1}{3}}", False),
        (0, "1/2", False),
        (0, r"\boxed{", False),
        (0, r"\boxed{}", False),
        (0, "", False),
        (1, r"\boxed{(3, \pi/2)}", True),
        (1, r"\boxed{(\pi/2, 3)}", False),
        (2, r"\boxed{(x-1)(x+1)}", True),
        (2, r"\boxed{x^2 + 1}", False),
        (3, r"\boxed{10080}", True),
        (4, r"\boxed{even}", True),
        (4, r"\boxed{odd}", False),
        (5, r"\boxed{(-\infty, 2]}", False),
    ],
)
def test_what_an_answer_means(task: Task, place: int, answer: str, right: bool) -> None:
    assert task.score(task.items[place], answer) == {"exact": right}


def test_from_worker_threads(task: Task) -> None:
    """Several threads at once, as in `evaluate`: every thread gets the reply to its own pair."""
    pairs = [(item, other) for item in task.items for other in task.items]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda pair: task.score(pair[0], pair[1].reference)["exact"], pairs))
    assert verdicts == [item is other for item, other in pairs]


def test_what_never_ends_is_wrong_and_the_next_answer_is_judged() -> None:
    verifier = MathVerifier(seconds=1.0)
    began = time.perf_counter()
    assert not verifier.same(r"\boxed{18}", r"\boxed{9^{9^{9^{9}}}}")
    assert time.perf_counter() - began < 8
    assert verifier.same(r"\boxed{18}", r"\boxed{36/2}")


def test_a_child_that_was_killed_is_replaced() -> None:
    verifier = MathVerifier()
    verifier._child.kill()
    verifier._child.wait()
    assert verifier.same("1", "1")


@settings(max_examples=150)
@given(answer=st.text() | st.text(alphabet="\\{}$^_()=,.+-0123456789abefinqrtx \n"))
def test_any_answer_gets_a_verdict(task: Task, answer: str) -> None:
    for said in (answer, rf"\boxed{{{answer}}}", f"The answer is {answer}"):
        assert task.score(task.items[0], said)["exact"] in (True, False)


@pytest.mark.parametrize(
    "inner", ["{" * 5000, r"\frac{1}{" * 2000 + "}" * 2000, "(" * 5000, "1" * 20_000, "\ud800", "\0", r"\sqrt" * 999]
)
def test_an_absurd_answer_is_wrong(task: Task, inner: str) -> None:
    assert task.score(task.items[0], f"The answer is {inner}") == {"exact": False}
    assert task.score(task.items[0], rf"\boxed{{{inner}}}") == {"exact": False}


def test_wrong_data(tmp_path: Path) -> None:
    with pytest.raises(unmask.ConfigError, match="math500 has no worked examples"):
        load("math500", Source(data=write(tmp_path), shots=4))
    write_lines(tmp_path / "test.jsonl", [ROWS[0], ROWS[1] | {"solution": "It is 3."}])
    with pytest.raises(unmask.ConfigError, match=r'test\.jsonl:2: expected a "solution" with its answer in'):
        load("math500", Source(data=tmp_path))
    write_lines(tmp_path / "test.jsonl", [ROWS[0], ROWS[1] | {"level": "Level 3"}])
    with pytest.raises(unmask.ConfigError, match=r'test\.jsonl:2: expected \{"problem": text, .*"level": whole number'):
        load("math500", Source(data=tmp_path))


def test_without_math_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(unmask.ConfigError, match=r"^math500 needs math-verify: .*pip install -e '.\[eval\]'$"):
        load("math500", Source(data=write(tmp_path)))
