"""What a card has said in its first hour (benchmarks/gpu_hour.py), as tables."""

from collections.abc import Iterator, Mapping
from typing import Any

from unmask.bench.report import Document, Table, seconds

COLUMNS = ("model", "what", "prompt", "rows", "time", "floor", "ratio")


def tables(document: Document) -> list[Table]:
    """One per part that has times of models, of its rows that have one.

    >>> row = {"model": "LLaDA-8B", "what": "block step", "seconds": 0.0069, "floor": 0.0052, "ratio": 1.33}
    >>> tables({"parts": [{"part": "steps", "rows": [row]}, {"part": "kernels", "said": "58 passed"}]})[0].rows
    [('LLaDA-8B', 'block step', '', '', '6.9 ms', '5.2 ms', '1.33')]
    """
    parts = [(part["part"], list(_rows(part.get("rows", ())))) for part in document["parts"]]
    return [Table(f"on a card: {name}", COLUMNS, rows) for name, rows in parts if rows]


def _rows(rows: Any) -> Iterator[tuple[str, ...]]:
    for row in rows:
        if "model" in row and "seconds" in row:
            yield (row["model"], _what(row), *(str(row.get(name, "")) for name in ("prompt", "rows")), *_times(row))


def _what(row: Mapping[str, Any]) -> str:
    return f"{row['what']} ({row['commit']})" if "commit" in row else str(row["what"])


def _times(row: Mapping[str, Any]) -> tuple[str, str, str]:
    floor, ratio = row.get("floor"), row.get("ratio")
    return seconds(row["seconds"]), "" if floor is None else seconds(floor), "" if ratio is None else f"{ratio:.2f}"
