"""The one way in which commands print a table: never broken inside a word, never wrapped in a pipe."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

GAP = 2  # spaces between columns


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, console: "Console | None" = None) -> None:
    """Print a table, columns of numbers to the right.

    A terminal that is too narrow wraps long cells between words; where even that does not fit, each row becomes a group of
    lines `column  value`. A pipe or a file gets every row on one line, whatever its length.
    """
    from rich.cells import cell_len
    from rich.console import Console

    console = console or Console()
    lines = [tuple(columns), *(tuple(row) for row in rows)]
    natural = [max(cell_len(part) for cell in column for part in cell.split("\n")) for column in zip(*lines, strict=True)]
    least = [
        max((cell_len(word) for cell in column for word in cell.split()), default=0) for column in zip(*lines, strict=True)
    ]
    gaps = GAP * (len(natural) - 1)
    if not console.is_terminal:
        console.width = sum(natural) + gaps
    if title:
        console.print(title, style="italic", highlight=False, markup=False, soft_wrap=True)
    if sum(least) + gaps <= console.width:
        _grid(columns, rows, fitted(natural, least, console.width - gaps), console)
    else:
        _groups(columns, rows, console)


def fitted(natural: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths that fit: the widest column that can still shrink gives way until they do, each at least its longest word.

    >>> fitted([4, 30, 20], [4, 8, 12], 44), fitted([4, 30, 20], [4, 8, 12], 24)
    ([4, 20, 20], [4, 8, 12])
    """
    widths = list(natural)
    while sum(widths) > room and (wide := [at for at in range(len(widths)) if widths[at] > least[at]]):
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
    for number, (name, width) in enumerate(zip(columns, widths, strict=True)):
        right = all(_is_number(row[number]) for row in rows)
        table.add_column(Text(name), justify="right" if right else "left", width=width)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _groups(columns: Sequence[str], rows: Sequence[Sequence[str]], console: "Console") -> None:
    from rich.padding import Padding
    from rich.text import Text

    for row in rows:
        for name, cell in zip(columns, row, strict=True):
            if cell:
                console.print(Padding(Text(f"{name}: {cell}" if name else cell), (0, 0, 0, 2)))
        console.print()


def _is_number(cell: str) -> bool:
    """Whether a cell is empty or a number, with at most one word behind it.

    >>> _is_number("-5.1 %"), _is_number("12.3 ms"), _is_number("r2-dllm"), _is_number("5, -1 % +1 %"), _is_number("")
    (True, True, False, False, True)
    """
    return re.fullmatch(r"([-+]?[\d.,]+ ?[^\s\d]*)?", cell) is not None
