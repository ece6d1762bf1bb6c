"""The results of `unmask eval`: kept as a document, shown as a table, drawn as pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Document = Mapping[str, Any]


def keep(document: Document, folder: Path) -> None:
    """Write summary.json."""
    from unmask.files import write_atomically

    text = json.dumps(document)
    write_atomically(folder / "summary.json", lambda place: place.write_text(text + "\n"))


def title(document: Document) -> str:
    """What was measured, in one line."""
    return f"{document['task']}, {document['n']} items, {document.get('model') or ' | '.join(document['models'])}"


def draw(document: Document, folder: Path) -> None:
    """The picture of the ablation, and that of the frontier, where the document has them."""
    from unmask.evals.picture import pareto, rules

    if "rules" in document:
        rules(document["rules"], title(document), folder / "rules.png")
    if "curves" in document:
        pareto(document["rows"], title(document), folder / "pareto.png")


def show(document: Document, folder: Path) -> None:
    """One line per method, the curves, the oracle and the ablation."""
    from unmask.cli.console import console

    out = console()
    _table(document)
    for curve in document.get("curves", ()):
        out.print(_curve(curve))
    if "oracle_forwards_mean" in document:
        out.print(f"an oracle that knows vanilla's answers: {document['oracle_forwards_mean']:.2f} forwards")
    for method, found in document.get("rules", {}).items():
        for rule in found:
            out.print(
                f"{method}: {rule['rule']} committed {rule['commits']} tokens, {rule['wrong_share']:.1%} of them not vanilla's"
            )
    too_long = document["rows"][0]["too_long"]
    if too_long:
        out.print(f"{too_long} of {document['n']} prompts exceed the model's context and count as wrong")
    out.print(f"results: {folder}", soft_wrap=True)


COLUMNS = ("right", "95 %", "forwards", "tokens/\nforward", "all ids/\nforward", "tokens/s")
CHANGES = ("forwards\nvs first", "points\nvs first", "p")


def _table(document: Document) -> None:
    from unmask.cli.console import Column, numbers, print_table

    names = ("model", "method") if "models" in document else ("method",)
    rows = []
    for row in document["rows"]:
        cells = (
            *(row[name] for name in names),
            f"{row['accuracy']:.1%}",
            f"{100 * row['accuracy_low']:.0f}-{100 * row['accuracy_high']:.0f}",
            f"{row['forwards_mean']:.2f}",
            f"{row['tokens_per_forward']:.2f}",
            f"{row['tpf_all']:.2f}",
            f"{row['tokens_per_second']:.0f}",
            *(_change(row["against_first"]) if "against_first" in row else [""] * len(CHANGES)),
        )
        rows.append(cells)
    columns = (*(Column(name, text=True) for name in names), *numbers(*COLUMNS, *CHANGES))
    print_table(columns, rows, title=title(document))


def _change(change: Mapping[str, Any]) -> tuple[str, str, str]:
    """A method against the first one: forwards, points of accuracy, McNemar's p."""
    return f"{change['forwards_ratio'] - 1:+.1%}", f"{100 * change['accuracy_change']:+.1f}", f"{change['mcnemar_p']:.1g}"


def _curve(curve: Mapping[str, Any]) -> str:
    """One curve: what moved along it, and its AUP."""
    values = ", ".join(f"{value:g}" for value in curve["values"])
    base = f", and {curve['baseline']}" if curve["baseline"] else ""
    of = f"{curve['model']}: " if "model" in curve else ""
    return (
        f"{of}{curve['method']} at {curve['option']} {values}{base}; cache {curve['cache']}: "
        f"AUP {curve['aup']:.0f} (best accuracy {curve['best']:.1f} %)"
    )
