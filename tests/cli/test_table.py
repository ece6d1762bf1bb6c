"""Tables: whole words at every width, one line per row in a pipe, every cell somewhere."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from unmask.cli.table import show_table

COLUMNS = ("method", "forwards", "published, one H200")
ROWS = [("streaming-dllm-official", "7.7", "2.3 s, of a prompt of a thousand tokens"), ("r2-dllm", "112.7", "")]


def printed(width: int | None, columns: tuple[str, ...] = COLUMNS, rows: list[tuple[str, ...]] = ROWS) -> list[str]:
    """The lines on a terminal of this width; None: in a pipe."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=width is not None, no_color=True, color_system=None)
    show_table("whole decodes", columns, rows, console=console)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_pipe_gets_one_line_per_row() -> None:
    assert printed(None) == [
        "whole decodes",
        "method                   forwards  published, one H200",
        "streaming-dllm-official       7.7  2.3 s, of a prompt of a thousand tokens",
        "r2-dllm                     112.7",
    ]
    assert len(printed(None, rows=[("a", "b", "word " * 100)])) == 3


def test_a_narrow_terminal_wraps_between_words() -> None:
    lines = printed(60)
    assert len(lines) > 4
    assert max(map(len, lines)) <= 60
    assert " ".join(" ".join(lines).split()).count("streaming-dllm-official") == 1


def test_a_row_is_a_group_of_lines_where_no_grid_fits() -> None:
    assert printed(30)[:4] == [
        "whole decodes",
        "  method:",
        "  streaming-dllm-official",
        "  forwards: 7.7",
    ]


WORD = st.text("abc-/9.", min_size=1, max_size=12)
CELL = st.lists(WORD, max_size=4).map(" ".join)


@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=4), st.integers(16, 100) | st.none())
def test_no_word_is_broken(rows: list[tuple[str, ...]], width: int | None) -> None:
    lines = printed(width, ("a", "b", "c"), rows)
    words = {word for line in lines for word in line.split()}
    assert {word for row in rows for cell in row for word in cell.split()} <= words
    if width is not None:
        assert max(map(len, lines)) <= width
