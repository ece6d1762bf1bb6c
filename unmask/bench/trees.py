"""The documents of benchmarks/before_after.py as tables: two trees and two types, and what lies between the products."""

from typing import Any

from unmask.bench.report import Document, Row, Table, rate, seconds

SIDES = ("before float32", "after float32", "before bfloat16", "after bfloat16")


def tables(document: Document) -> list[Table]:
    """Processor time of every side against the first, then how much of a block forward the products are."""
    sides = [side for side in SIDES if any(side in row for row in document["rows"])]
    compared = [
        (*_point(row), row["what"], seconds(row[sides[0]]["cpu_seconds"]), *(_times(row.get(side)) for side in sides[1:]))
        for row in document["rows"]
        if row["what"] != "products" and sides[0] in row
    ]
    columns = ("network", "threads", "rows", "", sides[0], *(f"{side}, times as fast" for side in sides[1:]))
    parts = ("network", "threads", "rows", "side", "block forward", "products", "their rate", "floor", "the rest", "its share")
    return [
        Table("two trees in turns, processor time", columns, compared),
        Table("where a block forward goes", parts, _between(document["rows"], sides)),
    ]


def _point(row: Row) -> tuple[str, str, str]:
    return row["network"], f"{row['threads']}", f"{row['rows']}"


def _times(side: dict[str, Any] | None) -> str:
    return "" if side is None else f"{side['times']:.2f} ({side['times_least']:.2f} to {side['times_most']:.2f})"


def _between(rows: list[Row], sides: list[str]) -> list[tuple[str, ...]]:
    """A line per side of each block forward whose products were measured too; the floor is the fastest rate of that type."""
    products = {_point(row): row for row in rows if row["what"] == "products"}
    kinds = {side: side.split()[-1] for side in sides}
    best: dict[str, float] = {}
    for row in products.values():
        for side in sides:
            if side in row:
                best[kinds[side]] = max(best.get(kinds[side], 0.0), row["flops"] / row[side]["cpu_seconds"])
    made: list[tuple[str, ...]] = []
    for row in rows:
        alone = products.get(_point(row))
        if row["what"] != "block forward" or alone is None:
            continue
        for side in sides:
            whole, part = row[side]["cpu_seconds"], alone[side]["cpu_seconds"]
            rest = max(0.0, whole - part)
            speed = rate(alone["flops"] / part, "FLOP/s")
            floor = seconds(row["flops"] / best[kinds[side]])
            made.append((*_point(row), side, seconds(whole), seconds(part), speed, floor, seconds(rest), f"{rest / whole:.0%}"))
    return made
