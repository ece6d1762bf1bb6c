"""Several evaluations of one task side by side: other weights, other methods, the same items.

    document = compare([Path("runs/eval/arithmetic-1a2b"), Path("runs/eval/arithmetic-3c4d")])

An evaluation is a folder of `unmask eval`: summary.json, and one file of answers per method. Nothing is decoded.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unmask.errors import ConfigError
from unmask.evals import summary
from unmask.evals.run import Record, Run, file_name
from unmask.files import read_journal
from unmask.methods.method import Method

HINT = "unmask eval"


class Evaluation(NamedTuple):
    """One folder: its task, its model, and the runs of its methods in their order."""

    folder: Path
    task: str
    model: str
    runs: tuple[Run, ...]

    @property
    def items(self) -> list[tuple[str, str]]:
        return [(record.id, record.prompt) for record in self.runs[0].records]


def read(folder: Path) -> Evaluation:
    """Read what `unmask eval` has left in a folder. Raises ConfigError where it is not whole."""
    path = folder / "summary.json"
    try:
        document = json.loads(path.read_text())
        task, end_id, kind = document["task"], document["end_id"], document.get("weights")
        model = document["model"] if kind is None else f"{document['model']} ({kind})"
        names = [row["method"] for row in document["rows"]]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); `{HINT} --output {folder}` makes it") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: not of this version of `{HINT}`: repeat its command, which decodes nothing again") from None
    return Evaluation(folder, task, model, tuple(_run(folder, name, document["n"], end_id) for name in names))


def _run(folder: Path, name: str, count: int, end_id: int) -> Run:
    path = folder / file_name(name)
    origin, rows = read_journal(path, HINT)
    try:
        records = tuple(Record.from_dict(row) for row in rows)[:count]
        method = Method.from_dict(origin["method"])
        metrics = tuple(records[0].verdicts)
    except (TypeError, KeyError, IndexError):
        raise ConfigError(f"{path}: not a file of `{HINT}`") from None
    if len(records) < count:
        raise ConfigError(f"{path}: {len(records)} of {count} answers; repeat the command of `{HINT}` to finish it")
    return Run(name=name, method=method, metrics=metrics, records=records, end_id=end_id)


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """All rows of some evaluations, each with its model, item by item against the very first, and the curves of each model.

    AUP's best accuracy is that of all rows.

    Raises ConfigError for fewer than two folders, for other tasks or items, and for a method that a model has twice.
    """
    if len(folders) < 2:
        raise ConfigError("--compare takes two folders of `unmask eval` or more")
    found = [read(folder) for folder in folders]
    first = found[0]
    for other in found[1:]:
        if (other.task, other.items) != (first.task, first.items):
            raise ConfigError(
                f"{other.folder} answers other items than {first.folder}: measure both with the same task, --limit, --seed"
            )
    named = [(one.model, run.name) for one in found for run in one.runs]
    for model, name in named:
        if named.count((model, name)) > 1:
            raise ConfigError(f"{name} on {model} is in two of the folders: leave one out")
    rows = [
        {"model": model, **row}
        for (model, _), row in zip(named, summary.table([run for one in found for run in one.runs]), strict=True)
    ]
    best = summary.best(rows)
    curves = [
        {"model": model, **curve}
        for model in dict.fromkeys(one.model for one in found)
        for curve in summary.swept([row for row in rows if row["model"] == model], best)
    ]
    return {"task": first.task, "n": len(first.items), "models": [one.model for one in found], "rows": rows, "curves": curves}
