"""4x4 sudoku: any solution with the same givens, in any layout."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unmask
from tests.evals.shared_data import check_whole_file, places, write_lines
from unmask.evals import load
from unmask.evals.sudoku import solves
from unmask.evals.task import Source

GRID, SOLUTION = "3102200002100320", "3142243142131324"
LINES = [
    {"input": "1003\n0300\n3210\n4132", "output": "1423\n2341\n3214\n4132"},
    {"input": "0302\n0034\n1423\n3040", "output": "4312\n2134\n1423\n3241"},
    {"input": "1000\n0002\n4003\n0000", "output": "1234\n3412\n4123\n2341"},
]


def write_csv(folder: Path, *rows: str) -> Path:
    (folder / "my_sudoku.csv").write_text("\n".join(["Puzzle,Solution", *(rows or (f"{GRID},{SOLUTION}",)), ""]))
    return folder


def write(folder: Path) -> Path:
    write_lines(folder / "sudoku_4x4_10.jsonl", LINES[:2])
    write_lines(folder / "sudoku_4x4_4.jsonl", LINES[2:])
    return write_csv(folder)


@pytest.fixture(params=["written", *places("d1_sudoku_countdown", "dream_planning")], ids=str)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path) if request.param == "written" else request.param


def keeps(grid: str, reference: str) -> bool:
    """Whether another puzzle's solution happens to be one of this puzzle too."""
    return all(given in ("0", cell) for given, cell in zip(grid, reference.replace("\n", ""), strict=True))


def test_the_whole_file(data: Path) -> None:
    task = load("sudoku", Source(data=data))
    assert (task.name, task.metrics, task.shots) == ("sudoku", ("exact",), 0)
    check_whole_file(task, lambda item, other: keeps(item.facts["grid"], other.reference))


def test_both_layouts_and_ids_that_do_not_move(tmp_path: Path) -> None:
    whole = load("sudoku", Source(data=write(tmp_path))).items
    assert [item.id for item in whole] == ["my_sudoku-0", "sudoku_4x4_4-0", "sudoku_4x4_10-0", "sudoku_4x4_10-1"]
    assert [item.group for item in whole] == ["8", "4", "10", "10"]
    assert whole[0].prompt.endswith("\n\n3102\n2000\n0210\n0320")
    assert load("sudoku", Source(data=tmp_path / "sudoku_4x4_10.jsonl")).items == whole[2:]
    assert load("sudoku", Source(data=tmp_path, limit=3)).items == whole[:3]


def test_examples_are_the_first_entries(tmp_path: Path) -> None:
    write(tmp_path)
    task = load("sudoku", Source(data=tmp_path / "sudoku_4x4_10.jsonl", shots=1))
    assert [item.id for item in task.items] == ["sudoku_4x4_10-1"]
    example = "Question: 1003\n0300\n3210\n4132\nAnswer: 1423\n2341\n3214\n4132\n\nQuestion: 0302\n0034\n1423\n3040\nAnswer:"
    assert task.items[0].prompt.endswith(example)
    assert (task.shots, task.stop) == (1, ("\nQuestion:",))
    with pytest.raises(unmask.ConfigError, match=r"my_sudoku\.csv has 1 rows: ask for fewer than 1 shots"):
        load("sudoku", Source(data=tmp_path, shots=1))


ROWS = [SOLUTION[start : start + 4] for start in (0, 4, 8, 12)]


@pytest.mark.parametrize(
    "answer",
    [
        SOLUTION,
        " ".join(ROWS),
        "\r\n".join(ROWS) + "\r\n",
        "\n".join(" ".join(row) for row in ROWS),
        "\n".join("| " + " | ".join(row) + " |" for row in ROWS),
        "[" + ", ".join("[" + ",".join(row) + "]" for row in ROWS) + "]",
        f"<answer>{SOLUTION}</answer> in 1 go",
        "First 1234\n4321\n1234\n4321 is wrong.\n\n```\n" + "\n".join(ROWS) + "\n```\nRows 1 to 4 are done.",
        "\n".join(f"Row {number}: {row}" for number, row in enumerate(ROWS, start=1)),
        f"3102\n2000\n0210\n0324\n\n{SOLUTION}",
        r"\boxed{" + SOLUTION + "}",
    ],
)
def test_layouts_of_an_answer(answer: str) -> None:
    assert solves(GRID, answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        GRID,
        SOLUTION[:15],
        SOLUTION + "1",
        SOLUTION[::-1],
        "1234341221434321",  # valid, but other givens
        "3142243142131342",  # a column twice
        "3142314224132413",  # rows only
        SOLUTION + "\n\nor rather\n\n" + "1234341221434321",
        SOLUTION[:8] + " 5 " + SOLUTION[8:],
    ],
)
def test_wrong_answers(answer: str) -> None:
    assert not solves(GRID, answer)


def test_any_valid_solution_is_right() -> None:
    empty = "0" * 16
    assert solves(empty, "1234341221434321")
    assert solves(empty, SOLUTION)
    assert not solves(empty, "1234234134124123")  # rows and columns, but no block


@given(st.text() | st.text(alphabet="01234 \n|row", max_size=80))
def test_any_answer_gets_a_verdict(answer: str) -> None:
    assert not solves("1111" + "0" * 12, answer)


def test_wrong_data(tmp_path: Path) -> None:
    with pytest.raises(unmask.ConfigError, match=r"holds no \*sudoku\*\.csv or \*sudoku\*\.jsonl"):
        load("sudoku", Source(data=tmp_path))
    nine = "0" * 81
    for row in (
        f"{nine},{nine}",
        f"{GRID}0,{SOLUTION}",
        f"{GRID},{SOLUTION[:12]}",
        f"5{GRID[1:]},{SOLUTION}",
        f"{GRID},{GRID}",
    ):
        with pytest.raises(unmask.ConfigError, match=r'my_sudoku\.csv:3: expected a 4x4 grid as "Puzzle" and "Solution"'):
            load("sudoku", Source(data=write_csv(tmp_path, f"{GRID},{SOLUTION}", row)))
    with pytest.raises(unmask.ConfigError, match=r'my_sudoku\.csv:2: expected a "Solution" that solves the "Puzzle"'):
        load("sudoku", Source(data=write_csv(tmp_path, f"{GRID},{SOLUTION[::-1]}")))
    path = write_lines(tmp_path / "mine.jsonl", [{"Puzzle": GRID, "Solution": SOLUTION}])
    with pytest.raises(unmask.ConfigError, match=r'mine\.jsonl:1: expected \{"input": text, "output": text\}'):
        load("sudoku", Source(data=path))
