"""What commands print where the terminal is narrow, and where there is none."""

import re
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.cli import console
from unmask.cli.console import Column, fitting, numbers, print_table, progress

COLUMNS = (Column("method"), *numbers("forwards", "tokens/\nforward"), Column("what it is", text=True))
ROWS = [("streaming-dllm", "1234", "5.67", "a pruned suffix, and a threshold that falls"), ("r2-dllm", "9", "6.60", "rules")]


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int) -> str:
    """The table on a terminal that wide."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(COLUMNS, ROWS)
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 200])
def test_no_width_breaks_a_word_or_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    out = printed(capsys, monkeypatch, width)
    assert max(map(len, out.splitlines())) <= width
    words = {word for row in [*ROWS, *([column.heading] for column in COLUMNS)] for cell in row for word in cell.split()}
    table, _, left = out.partition("left out in")
    assert set(table.split()) <= words
    kept = fitting(COLUMNS, ROWS, width)
    assert bool(left) == (kept < len(COLUMNS))
    for column in COLUMNS[kept:]:
        assert "".join(column.heading.split()) in "".join(left.split())


def test_a_pipe_never_wraps(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table(COLUMNS, ROWS, title="A title that is longer than twenty columns")
    title, *_, first, second = capsys.readouterr().out.splitlines()
    assert title == "A title that is longer than twenty columns"
    assert first.endswith(ROWS[0][-1])
    assert second.endswith("rules")


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 120))
def test_columns_go_from_the_end_and_only_where_they_must(widths: list[int], width: int) -> None:
    columns = [Column("x" * wide) for wide in widths]
    kept = fitting(columns, [["y"] * len(widths)], width)
    needed = [sum(widths[:count]) + console.GAP * (count - 1) for count in range(1, len(widths) + 1)]
    assert kept == max((count for count, need in enumerate(needed, 1) if need <= width), default=1)


def test_without_a_terminal_progress_is_a_line_now_and_then() -> None:
    code = (
        "import time\n"
        "from unmask.cli import console\n"
        "console.PAUSE = 0.05\n"
        "with console.progress() as display:\n"
        "    bar = display.add_task('r2-dllm', total=4)\n"
        "    for done in range(1, 5):\n"
        "        time.sleep(0.2)\n"
        "        display.update(bar, completed=done)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    counts = [int(re.fullmatch(r"\d+ s: r2-dllm (\d)/4", line)[1]) for line in lines]  # type: ignore[index]
    assert counts[0] < counts[-1]
    assert all(before <= after for before, after in pairwise(counts))


def test_a_short_run_without_a_terminal_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as display:
        display.update(display.add_task("quick", total=1), completed=1)
    assert capsys.readouterr().err == ""
