"""A paper's table run again: the published numbers, and ours beside them.

    unmask reproduce configs/paper/r2-table1-llada.yaml --data DATA

A file of configs/paper names a model and, for every task of a table, the settings and the numbers that the paper gives.
`reproduce` answers the tasks with unmask.evals.run, `document` compares, `markdown` prints. Reasons why two numbers cannot be
compared (another model, other prompts, another task) are printed beside them, and such numbers are not called equal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unmask.decode.settings import whole
from unmask.errors import ConfigError, PromptTooLong
from unmask.evals import HUB, TABLE, load
from unmask.evals.paper import Entry, PaperTable
from unmask.evals.run import evaluate
from unmask.evals.summary import summarise
from unmask.evals.task import Source, Task
from unmask.models.denoiser import Denoiser
from unmask.models.prompting import Prompting

# --- running it -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of an entry.

    Attributes:
        rows: row -> its numbers, as in `unmask eval --json`.
        differences: reasons why its accuracies cannot be compared with the paper's.
        skipped: why the entry was not run.
    """

    entry: Entry
    rows: Mapping[str, Mapping[str, Any]]
    differences: tuple[str, ...] = ()
    skipped: str | None = None


def tasks(table: PaperTable, data: Path | None, *, limit: int | None = None, shots: int | None = None) -> list[Task]:
    """The task of every entry: at most `limit` items, at most `shots` worked examples.

    Data of task T is in the folder data/T, or, where `data` is "hub" and no folder is called so, its data set on the hub.
    Raises ConfigError where that is not to be had.
    """
    whole("limit", limit, 1)
    whole("shots", shots, 0)
    found = []
    for entry in table.entries:
        place = _data(entry.task, data) if entry.task in TABLE else None
        asked = load(entry.task, Source(data=place, shots=entry.shots if shots is None else min(shots, entry.shots)))
        found.append(replace(asked, items=asked.items[:limit]))
    return found


def _data(task: str, data: Path | None) -> Path:
    if data == Path("hub") and not data.exists() and task in HUB:
        return Path(HUB[task])
    if data is None or not (data / task).exists():
        missing = "name the data with --data" if data is None else f"{data / task}: no such file or folder"
        raise ConfigError(f"{missing}: a folder with one folder per task ({task} ...), or hub for the data sets of the hub")
    return data / task


Report = Callable[[Entry, str, int, float], None]


def reproduce(
    model: Denoiser,
    table: PaperTable,
    asked: Sequence[Task],
    *,
    folder: Path | None = None,
    weights: str = "",
    batch: int = 1,
    report: Report | None = None,
) -> list[Outcome]:
    """Answer every entry's task with every method that unmask has; an entry that does not fit the model is skipped.

    Args:
        asked: the tasks of the entries, from `tasks`.
        folder: keeps one folder per entry; answers in it are not made again.
        weights, batch: as `evaluate` takes them. Published speeds are of one answer at a time.
        report: called as report(entry, row, items done, share of them right) after every batch.

    Raises:
        ConfigError: `folder` holds answers made with other settings, or is being written by another process.
        PromptTooLong: no entry fits.
    """
    outcomes = []
    for entry, task in zip(table.entries, asked, strict=True):
        methods = table.runnable(entry)
        place = None if folder is None else folder / replace(entry, shots=task.shots).slug
        noted = None if report is None else partial(report, entry)
        try:
            runs = evaluate(model, task, methods, folder=place, weights=weights, batch=batch, report=noted)
        except PromptTooLong as error:
            outcomes.append(Outcome(entry=entry, rows={}, skipped=str(error)))
            continue
        rows = {run.name: summarise(run) for run in runs}
        too_long = next(iter(rows.values()))["too_long"]
        outcomes.append(Outcome(entry=entry, rows=rows, differences=differences(entry, task, too_long)))
    if all(outcome.skipped for outcome in outcomes):
        raise PromptTooLong(f"no entry of the table fits: {outcomes[0].skipped}")
    return outcomes


def differences(entry: Entry, task: Task, too_long: int) -> tuple[str, ...]:
    """Reasons why an entry's accuracies cannot be compared with the paper's, whatever the model."""
    found = []
    if entry.instead_of is not None:
        found.append(f"{task.name} with {task.shots} shots stands in for {entry.instead_of}")
    if task.shots != entry.shots:
        found.append(f"{task.shots} shots instead of {entry.shots}")
    if too_long:
        found.append(f"{too_long} of {len(task.items)} prompts exceed the model's context and count as wrong")
    return tuple(found)


def hardware(model: Denoiser) -> str:
    """The name of the device that a model runs on."""
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type


# --- comparing --------------------------------------------------------------------------------------------------------

HEAD = (
    "| task | row | right, % | forwards | tokens/s | s | ours: right, % (95 %) | inside | forwards | tokens/s | s |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def document(
    table: PaperTable,
    outcomes: Sequence[Outcome],
    *,
    model: str,
    device: str,
    batch: int,
    prompting: Prompting | None = None,
) -> dict[str, Any]:
    """Published numbers and ours as plain data; `inside`: whether our 95 % interval holds the published accuracy, or None.

    None means not comparable: another model, or one that was asked otherwise than the paper asks it (`prompting`).
    """
    prompting, why = prompting or table.prompting, None
    if not table.is_of(model):
        why = f"the model is {model}, not {table.model}"
    elif prompting != table.prompting:
        why = f"the model was asked {in_words(prompting)}, in the paper {in_words(table.prompting)}"
    ours = {"model": model, "device": device, "batch": batch, **asdict(prompting)}
    return _head(table) | {
        "ours": ours,
        "not_comparable": why,
        "entries": [_compared(table, outcome, comparable=why is None and not outcome.differences) for outcome in outcomes],
    }


def in_words(prompting: Prompting) -> str:
    """How a model is asked.

    >>> in_words(Prompting(chat_template=False, add_bos=True))
    'without its chat template behind a BOS token'
    """
    return f"{'with' if prompting.chat_template else 'without'} its chat template{' behind a BOS token' * prompting.add_bos}"


def published(table: PaperTable) -> dict[str, Any]:
    """The same document, with the published numbers alone."""
    outcomes = [Outcome(entry=entry, rows={}) for entry in table.entries]
    return _head(table) | {
        "ours": None,
        "not_comparable": None,
        "entries": [_compared(table, outcome, comparable=False) for outcome in outcomes],
    }


def _head(table: PaperTable) -> dict[str, Any]:
    return {
        "paper": table.paper,
        "table": table.table,
        "model": table.model,
        "hardware": table.hardware,
        "caveats": list(table.caveats),
        "not_run": {name: recipe.not_run for name, recipe in table.methods.items() if recipe.not_run is not None},
    }


def _compared(table: PaperTable, outcome: Outcome, *, comparable: bool) -> dict[str, Any]:
    entry, methods, rows = outcome.entry, table.runnable(outcome.entry), []
    for name, theirs in entry.published.items():
        ours = outcome.rows.get(name)
        inside = None
        if comparable and ours is not None:
            inside = ours["accuracy_low"] <= theirs.accuracy / 100 <= ours["accuracy_high"]
        settings = methods[name].to_dict() if name in methods else None
        rows.append({"row": name, "settings": settings, "published": asdict(theirs), "ours": ours, "inside": inside})
    return {
        "task": entry.task,
        "shots": entry.shots,
        "max_new_tokens": entry.max_new_tokens,
        "instead_of": entry.instead_of,
        "n": next((row["n"] for row in outcome.rows.values()), 0),
        "differences": list(outcome.differences),
        "skipped": outcome.skipped,
        "rows": rows,
    }


def markdown(found: Mapping[str, Any]) -> str:
    """A document as a Markdown table with its notes, one line per task and row; a dash stands for a missing number."""
    lines = [f"Published: {found['paper']}, table {found['table']}, {found['model']}, {found['hardware']}.", ""]
    if found["ours"] is not None:
        ours = "Ours: {model}, {device}, batch {batch}; speeds compare only on the same hardware and batch."
        lines += [ours.format(**found["ours"]), ""]
    if found["not_comparable"] is not None:
        lines += [f"**Not comparable with the published numbers: {found['not_comparable']}.**", ""]
    lines.append(HEAD)
    for entry in found["entries"]:
        instead = f" for {entry['instead_of']}" if entry["instead_of"] else ""
        asked = f"{entry['task']} {entry['shots']}-shot{instead}, {entry['max_new_tokens']}"
        for row in entry["rows"]:
            cells = (asked, row["row"], *_theirs(row["published"]), *_ours(row))
            lines.append("| " + " | ".join(cells) + " |")
    notes = []
    for entry in found["entries"]:
        title = f"{entry['task']}, {entry['max_new_tokens']} tokens"
        if entry["skipped"] is not None:
            notes.append(f"{title}: not run, {entry['skipped']}.")
        elif entry["differences"]:
            notes.append(f"{title}: not comparable, {'; '.join(entry['differences'])}.")
    notes += [f"{name}: not run, {reason}." for name, reason in found["not_run"].items()] + found["caveats"]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _theirs(numbers: Mapping[str, float | None]) -> list[str]:
    return ["-" if value is None else f"{value:g}" for value in numbers.values()]


def _ours(row: Mapping[str, Any]) -> list[str]:
    ours = row["ours"]
    if ours is None:
        return ["-"] * 5
    accuracy, low, high = (100 * ours[key] for key in ("accuracy", "accuracy_low", "accuracy_high"))
    return [
        f"{accuracy:.2f} ({low:.1f} to {high:.1f}), n {ours['n']}",
        {True: "yes", False: "no", None: "-"}[row["inside"]],
        f"{ours['forwards_mean']:.1f}",
        f"{ours['tokens_per_second']:.1f}",
        f"{ours['seconds_per_item']:.2f}",
    ]
