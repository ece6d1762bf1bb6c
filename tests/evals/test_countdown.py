"""Countdown: steps or an expression that use every number once, without eval."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unmask
from tests.evals.shared_data import check_whole_file, places, write_lines
from unmask.evals import load
from unmask.evals.countdown import makes
from unmask.evals.task import Source

DREAM = [
    {"input": "15,44,79,50", "output": "44-15=29,79-29=50"},
    {"input": "65,34,56,25", "output": "65-34=31,56-31=25"},
    {"input": "86,28,13,31,96", "output": "86+28=114,31-13=18,114-18=96"},
]
D1 = [{"input": "30,100,93", "output": "23"}, {"input": "90, 43, 90", "output": "43"}, {"input": "7,3,8,8", "output": "24"}]


def write(folder: Path) -> Path:
    write_lines(folder / "cd3_test.jsonl", DREAM)
    write_lines(folder / "countdown_cd3_test.jsonl", D1)
    return folder


@pytest.fixture(params=["written", *places("d1_sudoku_countdown", "dream_planning")], ids=str)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path) if request.param == "written" else request.param


def test_the_whole_file(data: Path) -> None:
    task = load("countdown", Source(data=data))
    assert (task.name, task.metrics, task.shots) == ("countdown", ("exact",), 0)
    check_whole_file(task, lambda item, other: False)
    assert all(item.group == str(len(item.facts["numbers"])) for item in task.items)


def test_both_layouts_and_ids_that_do_not_move(tmp_path: Path) -> None:
    whole = load("countdown", Source(data=write(tmp_path))).items
    assert [item.id for item in whole] == [f"{name}-{n}" for name in ("cd3_test", "countdown_cd3_test") for n in range(3)]
    assert [item.group for item in whole] == ["3", "3", "4", "3", "3", "4"]
    assert [item.facts["target"] for item in whole] == [50, 25, 96, 23, 43, 24]
    assert whole[0].prompt.endswith("\n\n50 from 15, 44, 79")
    assert load("countdown", Source(data=tmp_path / "countdown_cd3_test.jsonl")).items == whole[3:]
    assert load("countdown", Source(data=tmp_path, limit=2)).items == whole[:2]


def test_examples_are_the_first_entries(tmp_path: Path) -> None:
    write(tmp_path)
    task = load("countdown", Source(data=tmp_path / "cd3_test.jsonl", shots=2))
    assert [item.id for item in task.items] == ["cd3_test-2"]
    asked = "Answer: 65-34=31,56-31=25\n\nQuestion: 96 from 86, 28, 13, 31\nAnswer:"
    assert task.items[0].prompt.endswith(asked)
    assert (task.shots, task.stop) == (2, ("\nQuestion:",))
    with pytest.raises(unmask.ConfigError, match=r"cd3_test\.jsonl has 3 rows: ask for fewer than 3 shots"):
        load("countdown", Source(data=tmp_path, shots=3))


@pytest.mark.parametrize(
    "answer",
    [
        "44-15=29,79-29=50",
        "44 - 15 = 29\n79 - 29 = 50",
        "First, 44-15=29. Then 79-29=50. That uses 44, 15 and 79.",
        "1. 44-15=29\n2. 79-29=50",
        "1) 44-15=29\n2) 79-29=50",
        "- 44-15=29\n- 79-29=50",
        "Step 1: 44 \u2212 15 = 29; step 2: **79 \u2212 29 = 50**",
        "44-15=29,79-29",  # a step without its result still has one
        "79-(44-15)",
        "79-(44-15)=50.",
        "79 - (44 - 15) = 79 - 29 = 50",
        "50 = 79-(44-15)",
        "-(44-15)+79",
        "-44+15+79",
        "15+79-44",
        "15-44=-29, -29+79=50",
        "15-44=-29, 79+-29=50",
        r"$79 - \left(44 - 15\right) = 50$",
        r"1+2=3? No. \boxed{79-(44-15)} since 1+1=2",
        "44+15=59, no. <answer>79-(44-15)</answer> and 1+1=2",
        "<answer>44-15=29,79-29=50",
        "44+15=59, 79-59=20. No. Again: 44-15=29, 79-29=50",
    ],
)
def test_right_answers(answer: str) -> None:
    assert makes([15, 44, 79], 50, answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "50",
        "50=50",
        "44-15=29",
        "79-29=50",
        "44-15=30,79-29=50",
        "44-15=29,79-29=51",
        "44-15=29,79-30=49",
        "44-15=29,79-29=50,50+1=51",
        "79-44+15+0",
        "79-44+15+15-15",
        "44+15=59,79-59=20",
        "79-(44-15",
        "79-44-15)=50",
        "79-29=50,44-15=29",
        "(79-44+15)**1",
        "25*2",
        "79-(44-15)<answer></answer>",
        "15-44=-29,79-29=50",
    ],
)
def test_wrong_answers(answer: str) -> None:
    assert not makes([15, 44, 79], 50, answer)


def test_the_four_operations_and_repeated_numbers() -> None:
    assert makes([2, 3, 8], 12, r"2 \times 3 = 6, then 8*6=48") is False
    assert makes([4, 6, 2], 12, "4\u00d76=24\n24\u00f72=12")
    assert makes([4, 6, 2], 12, "4 x 6 / 2")
    assert makes([4, 6, 2], 12, r"4 \cdot 6 \div 2 = 12")
    assert makes([3, 3, 8, 8], 24, "8/(3-8/3)")
    assert makes([90, 43, 90], 43, "90-90=0,0+43=43")
    assert not makes([90, 43], 133, "90+43+90-90")


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "9**9**9**9",
            "9^9^9",
            "1/0",
            "0/0=1",
            "79-(44-15)/0",
            "9" * 100_000 + "*" + "9" * 100_000,
            "(" * 100_000,
            "-" * 100_000,
        ),
        *("1+" * 50_000, "1+1=2," * 20_000, "(1+1)" * 20_000, "1 " * 50_000, "*" * 100_000, "=" * 100_000, "__import__('os')"),
        *("1 x " * 30_000, "- " * 50_000, "\n- 1" * 30_000, "\\boxed{" * 20_000, "1" + " " * 100_000 + "+"),
    ],
    ids=range(20),
)
def test_an_absurd_answer_is_wrong_at_once(answer: str) -> None:
    assert not makes([15, 44, 79], 50, answer)


@given(st.text() | st.text(alphabet="1457890+-*/=(),. \n", max_size=200))
def test_any_answer_gets_a_verdict(answer: str) -> None:
    assert not makes([1000, 1], 1234567, answer)


@given(st.permutations([15, 44, 79]), st.lists(st.sampled_from("+-*/"), min_size=2, max_size=2), st.booleans())
def test_an_expression_is_right_exactly_where_python_says_so(numbers: list[int], signs: list[str], left: bool) -> None:
    a, b, c = numbers
    text = f"({a}{signs[0]}{b}){signs[1]}{c}" if left else f"{a}{signs[0]}({b}{signs[1]}{c})"
    assert makes([15, 44, 79], 50, text) == (abs(eval(text) - 50) < 1e-9)


def test_references_are_found_where_there_are_any(tmp_path: Path) -> None:
    rows = [
        {"input": f"{a},{b},{c}", "output": str(target)}
        for a, b, c in itertools.combinations((2, 3, 7, 12), 3)
        for target in (a + b + c, a * b * c, c - b + a)
    ]
    path = write_lines(tmp_path / "cd.jsonl", rows)
    check_whole_file(load("countdown", Source(data=path)), lambda item, other: item.facts == other.facts)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"input": "15,44,79"}, r'\{"input": text, "output": text\}'),
        (
            {"input": "15,44,79,50", "output": "44-15=29,79-29=51"},
            r'"output" that its "input" can make, got \'44-15=29,79-29=51\'',
        ),
        ({"input": "2,2", "output": "99"}, r"can make, got '99'"),
        ({"input": "15;44", "output": "59"}, r'whole numbers separated by commas as "input"'),
        ({"input": "15,x", "output": "59"}, "whole numbers"),
        ({"input": "15", "output": "15"}, "two to 6 numbers"),
        ({"input": "1,2,3,4,5,6,7", "output": "28"}, "two to 6 numbers"),
        ({"input": "1,1,1,1,1", "output": "999"}, "can make, got '999'"),
    ],
)
def test_wrong_data(tmp_path: Path, row: dict[str, str], words: str) -> None:
    path = write_lines(tmp_path / "cd3_test.jsonl", [DREAM[0], row])
    with pytest.raises(unmask.ConfigError, match=r"cd3_test\.jsonl:2: expected .*" + words):
        load("countdown", Source(data=path))
