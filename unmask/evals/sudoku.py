r"""4x4 sudoku in the two layouts of dLLM papers: d1's CSV (arXiv 2504.12216) and Dream's JSON lines (github.com/DreamLM/Dream).

Puzzle,Solution
3102200002100320,3142243142131324

{"input": "1003\n0300\n3210\n4132", "output": "1423\n2341\n3214\n4132"}
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unmask.evals import shots
from unmask.evals.reading import Row, files, read
from unmask.evals.task import Item, Source, Task, chosen

RULES = (
    "Solve a sudoku of 4 rows and 4 columns, where 0 is an empty cell. Put 1, 2, 3 or 4 into every empty cell so that each "
    "row, each column and each 2x2 block in a corner holds 1, 2, 3 and 4 once. Answer with the solved grid: 4 rows of 4 digits."
)
_ROWS = [range(start, start + 4) for start in (0, 4, 8, 12)]
_COLUMNS = [range(start, 16, 4) for start in range(4)]
_BLOCKS = [(corner, corner + 1, corner + 4, corner + 5) for corner in (0, 2, 8, 10)]
UNITS: Sequence[Sequence[int]] = (*_ROWS, *_COLUMNS, *_BLOCKS)


class Puzzle(NamedTuple):
    """A grid and its solution, 16 digits each, row by row; 0 is an empty cell."""

    grid: str
    solution: str


def sudoku(source: Source) -> Task:
    """The puzzles of a file, or of every sudoku file of a folder, grouped by the number of givens; any solution is right.

    `source.shots` (0) takes that many puzzles from the top of each file as worked examples, as Dream's own evaluation does.
    Raises ConfigError for missing or malformed data, or grids of another size.
    """
    number, items = source.shots or 0, list[Item]()
    for path in files(source.data, "*sudoku*.csv", "*sudoku*.jsonl"):
        puzzles = _read(path)
        examples = [(_drawn(grid), _drawn(solution)) for grid, solution in shots.first(puzzles, number, str(path))]
        for place, puzzle in enumerate(puzzles[number:], start=number):
            grid = _drawn(puzzle.grid)
            items.append(
                Item(
                    id=f"{path.stem}-{place}",
                    prompt=f"{RULES}\n\n{shots.few_shot(examples, grid) if examples else grid}",
                    reference=_drawn(puzzle.solution),
                    group=str(16 - puzzle.grid.count("0")),
                    facts={"grid": puzzle.grid},
                )
            )
    return Task(
        name="sudoku",
        items=chosen(items, source, str(source.data)),
        metrics=("exact",),
        score=lambda item, answer: {"exact": solves(item.facts["grid"], answer)},
        max_new_tokens=128,
        stop=shots.STOP if number else (),
        shots=number,
    )


def solves(grid: str, answer: str) -> bool:
    r"""Whether the last 16 digits from 1 to 4, not interrupted by a word or another digit, solve the grid.

    >>> solves("3102200002100320", "<answer>\n3142\n2431\n4213\n1324\n</answer>")
    True
    >>> solves("3102200002100320", "| 3 | 1 | 4 | 2 |\n| 2 | 4 | 3 | 1 |\n| 4 | 2 | 1 | 3 |\n| 1 | 3 | 4 | 2 |")
    False
    """
    unlabelled = re.sub(r"\brow +[1-4]\b", "", answer, flags=re.IGNORECASE)
    runs = [re.sub(r"[^1-4]", "", run) for run in re.split(r"[^\W1-4]+", unlabelled)]
    cells = next((run[-16:] for run in reversed(runs) if len(run) >= 16), None)
    if cells is None:
        return False
    kept = all(given in ("0", cell) for given, cell in zip(grid, cells, strict=True))
    return kept and all({cells[place] for place in unit} == set("1234") for unit in UNITS)


def _read(path: Path) -> list[Puzzle]:
    names = ("Puzzle", "Solution") if path.suffix == ".csv" else ("input", "output")
    return [_puzzle(row, *names) for row in read(path, dict.fromkeys(names, str))]


def _puzzle(row: Row, grid: str, solution: str) -> Puzzle:
    puzzle = Puzzle("".join(row[grid].split()), "".join(row[solution].split()))
    if not re.fullmatch("[0-4]{16}", puzzle.grid) or not re.fullmatch("[1-4]{16}", puzzle.solution):
        raise row.expected(f'a 4x4 grid as "{grid}" and "{solution}": 16 digits from 1 to 4, 0 where a cell is empty')
    if not solves(*puzzle):
        raise row.expected(f'a "{solution}" that solves the "{grid}"')
    return puzzle


def _drawn(cells: str) -> str:
    """Four lines of four digits."""
    return "\n".join(cells[start : start + 4] for start in (0, 4, 8, 12))
