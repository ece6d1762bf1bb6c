"""Dated documents side by side, as a Markdown page."""

from collections.abc import Sequence

from unmask.bench import card, trees
from unmask.bench.report import Document, Table, found, rate, seconds, tables

ABOUT = (
    "Made by `unmask bench --compare benchmarks/results -o docs/speed.md` from the dated documents in that folder. A time is "
    "a median; its floor is the least time in which the counted bytes can be moved or the counted operations computed, at the "
    "rates measured in the same run; its ratio is the time divided by the floor. Two trees in turns are measured by "
    "`benchmarks/before_after.py`, peers by `unmask bench peers`, a GPU by `make gpu-hour` (docs/gpu.md)."
)


def page(documents: Sequence[Document], picture: str, compared: Sequence[Document] = (), cards: Sequence[Document] = ()) -> str:
    """A Markdown page: key figures of all documents side by side, oldest first, then the newest of each part and device.

    `cards` are documents of benchmarks/gpu_hour.py and `compared` of benchmarks/before_after.py, which come first.
    """
    ordered = sorted(documents, key=lambda document: document["date"])
    whole = [document for document in ordered if {"floors", "shapes", "decode"} & document["parts"].keys()]
    keys = [headline(document) for document in whole]
    names = list(dict.fromkeys(name for key in keys for name in key))
    columns = tuple(f"{document['date']} {document['machine']['device']}" for document in whole)
    rows = [(name, *(key.get(name, "") for key in keys)) for name in names]
    parts = ["# Speed", ABOUT]
    for document in sorted(cards, key=lambda document: document["date"], reverse=True):
        parts += _section(document, card.tables(document))
    for document in sorted(compared, key=lambda document: document["date"], reverse=True):
        parts += _section(document, trees.tables(document))
    parts += [_markdown(Table("Side by side", ("", *columns), rows)), f"![The newest run]({picture})"]
    shown: set[tuple[str, str, str]] = set()
    for document in reversed(ordered):
        where = (document["machine"]["device"], document["model"])
        new = {part: rows for part, rows in document["parts"].items() if rows and (*where, part) not in shown}
        shown |= {(*where, part) for part in new}
        if new:
            parts += _section(document, tables({**document, "parts": new}))
    return "\n\n".join(parts) + "\n"


def _section(document: Document, made: Sequence[Table]) -> list[str]:
    machine = document["machine"]
    title = f"## {document['date']}, {machine['name']}, {machine['threads']} threads, torch {machine['torch']}"
    note = [f"Note: {document['note']}."] if document["note"] else []
    return [title, *note, *(_markdown(table) for table in made if table.rows)]


def headline(document: Document) -> dict[str, str]:
    """The figures by which runs are compared, by name."""
    machine = document["machine"]
    key = {"machine": machine["name"], "torch": machine["torch"], "note": document["note"]}
    for row in found(document, "floors", "copy"):
        key["copy"] = rate(row["bytes_per_second"], "B/s")
    for dtype in ("bfloat16", "float32"):
        speeds = [row["flops_per_second"] for row in found(document, "floors", "product") if row["dtype"] == dtype]
        if speeds:
            key[f"products, {dtype}"] = rate(max(speeds), "FLOP/s")
    for what in ("block forward", "block forward, captured", "decode"):
        for row in found(document, "shapes", what):
            name = f"{row['schedule']}, {row['forwards']} forwards" if what == "decode" else what
            context = "no cache" if row.get("extrapolated_from") else row["variant"]
            key[f"{row['model']}, {context}, batch {row['batch']}, prompt {row['prompt']}: {name}"] = (
                f"{seconds(row['seconds'])} ({row['ratio']:.1f} of its floor)"
            )
    for row in found(document, "decode", "preset"):
        key[f"`{row['method']}`, batch 1"] = f"{row['tokens_per_second']:.0f} tokens/s"
        if row["tokens_per_second_batch"] is not None:
            key[f"`{row['method']}`, batch 16"] = f"{row['tokens_per_second_batch']:.0f} tokens/s"
    return {name: text for name, text in key.items() if text}


def _markdown(table: Table) -> str:
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    return f"**{table.title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)
