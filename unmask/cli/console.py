"""What commands print: tables that are never cut inside a word, and progress on a terminal or as lines of a log."""

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task
    from rich.table import Table

GAP = 2  # spaces between two columns
WIDE = 100_000  # of a pipe, whose lines are never wrapped
PAUSE = 10.0  # seconds between two lines of progress where there is no terminal


class Column(NamedTuple):
    """A column of a table; one of running text may go on in the next line, between two words."""

    heading: str
    right: bool = False
    text: bool = False

    def least(self, cells: Sequence[str]) -> int:
        """The number of characters below which a word or a number would be cut."""
        parts = [part for cell in (self.heading, *cells) for part in (cell.split() if self.text else cell.split("\n"))]
        return max(map(len, parts), default=0)


def numbers(*headings: str) -> tuple[Column, ...]:
    """Columns that stand to the right."""
    return tuple(Column(heading, right=True) for heading in headings)


def console() -> "Console":
    """Standard output: as wide as the terminal, and without an end where it is a pipe or a file."""
    from rich.console import Console

    made = Console(highlight=False, markup=False, emoji=False)
    return made if made.is_terminal else Console(highlight=False, markup=False, emoji=False, width=WIDE)


def fitting(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> int:
    """How many columns fit, counted from the first, which always stays: the last ones go before any is cut.

    >>> fitting([Column("method"), Column("forwards"), Column("seconds")], [["vanilla", "96", "1.25"]], 20)
    2
    """
    used, kept = -GAP, 0
    for place, column in enumerate(columns):
        used += GAP + column.least([row[place] for row in rows])
        if place and used > width:
            break
        kept += 1
    return kept


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print rows of text under their headings; where the terminal is too narrow a line says which columns are left out."""
    out = console()
    kept = fitting(columns, rows, out.width)
    if title:
        out.print(title, soft_wrap=True)
    table = _table(columns[:kept])
    for row in rows:
        table.add_row(*row[:kept])
    with out.capture() as drawn:
        out.print(table)
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()))
    if left := [" ".join(column.heading.split()) for column in columns[kept:]]:
        out.print(f"left out in {out.width} columns: {', '.join(left)}", style="dim")


def _table(columns: Sequence[Column]) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, show_header=any(column.heading for column in columns))
    for column in columns:
        table.add_column(column.heading, justify="right" if column.right else "left", no_wrap=not column.text)
    return table


def progress(*columns: "ProgressColumn") -> "Progress":
    """A display of progress on stderr: bars on a terminal, elsewhere a line every ten seconds."""
    from rich.console import Console
    from rich.progress import Progress

    class Lines(Progress):
        """The tasks that are under way, in one line."""

        def start(self) -> None:
            self._over = threading.Event()
            threading.Thread(target=self._tell, args=(time.monotonic(),), daemon=True).start()

        def stop(self) -> None:
            self._over.set()

        def _tell(self, began: float) -> None:
            while not self._over.wait(PAUSE):
                self.console.print(f"{time.monotonic() - began:.0f} s: {_said(self.tasks)}", soft_wrap=True)

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    return Progress(*columns, console=console) if console.is_terminal else Lines(console=console, disable=True)


def _said(tasks: "Sequence[Task]") -> str:
    """What is begun and not finished, or the last one.

    >>> from rich.progress import Progress
    >>> display = Progress(disable=True)
    >>> _ = display.add_task("fast-dllm  97 % right", total=200, completed=48), display.add_task("r2-dllm", total=200)
    >>> _said(display.tasks)
    'fast-dllm  97 % right 48/200'
    """
    begun = [task for task in tasks if task.completed and not task.finished] or list(tasks)[-1:]
    return "; ".join(f"{task.description} {_count(task)}".strip() for task in begun) or "at work"


def _count(task: "Task") -> str:
    if task.total is None:
        return f"{task.completed:.0f}" if task.completed else ""
    return f"{task.completed:.0f}/{task.total:.0f}"
