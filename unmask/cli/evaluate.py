"""`unmask eval`: methods over a task."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.cli.choose import Device, Dtype, Json, Model, progress, read_sweep
from unmask.cli.compare import METHODS
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.evals.run import Report
    from unmask.evals.task import Task
    from unmask.methods.method import Method
    from unmask.models.denoiser import Denoiser


def evaluate(
    task: Annotated[
        str,
        typer.Argument(
            help="gsm8k, math500, humaneval, mbpp, svamp, sudoku, countdown (with --data); or held-out problems of the "
            "embedded model: arithmetic, chain ..., mixture for all of them."
        ),
    ],
    methods: Annotated[
        str, typer.Option(help="Presets or settings files, separated by commas; the first is the yardstick.")
    ] = METHODS,
    model: Model = "unmask-tiny",
    data: Annotated[Path | None, typer.Option(help="Folder or file with the task's data.")] = None,
    limit: Annotated[int | None, typer.Option(help="How many items; all, or 200 generated ones, if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Which items.")] = 0,
    shots: Annotated[int | None, typer.Option(help="Worked examples in the prompt; if not given, as is usual.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Length of every answer in tokens.")] = None,
    batch: Annotated[int, typer.Option(help="Prompts decoded at once.", min=1)] = 16,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=A,B,C", help="Run every method that has this option with each value; repeatable."),
    ] = None,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Also decode with an observer: what each rule committed, and how rightly.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the results; answers that it holds are kept. If not given, one under runs/eval."),
    ] = None,
    as_json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Accuracy, forwards and speed of methods over the same items of TASK.

    Every answer is a line of a method's file in the output folder. A run that was stopped goes on with the same command.
    """
    chosen = read_sweep(methods, sweep)
    if ablation and "vanilla" not in chosen:
        raise ConfigError("--ablation judges commits by vanilla's answers: put vanilla among --methods")

    import unmask
    from unmask.evals import load
    from unmask.evals import run as running
    from unmask.evals.ablation import ablate
    from unmask.evals.oracle import oracle
    from unmask.evals.picture import pareto
    from unmask.evals.picture import rules as draw_rules
    from unmask.evals.summary import table
    from unmask.evals.task import Source
    from unmask.files import write_atomically
    from unmask.models.loading import fingerprint, locate

    asked = load(task, Source(data=data, limit=limit, seed=seed, shots=shots))
    denoiser = unmask.load(model, device=device, dtype=dtype)
    weights = fingerprint(locate(model))
    folder = output or _folder(denoiser, asked, chosen, weights, batch, max_new_tokens)
    if output is None and running.finished(folder, list(chosen), len(asked.items)):
        shutil.rmtree(folder)  # what is finished is not gone on with: measure anew
    with _bars(list(chosen), len(asked.items)) as report:
        runs = running.evaluate(
            denoiser,
            asked,
            chosen,
            folder=folder,
            weights=weights,
            batch=batch,
            max_new_tokens=max_new_tokens,
            report=report,
        )
    document: dict[str, Any] = {
        "task": task,
        "n": len(asked.items),
        "model": model,
        "shots": asked.shots,
        "rows": table(runs),
    }
    vanilla = next((run for run in runs if run.name == "vanilla"), None)
    if vanilla is not None:
        forwards = oracle(denoiser, vanilla)
        document["oracle_forwards_mean"] = sum(forwards) / len(forwards)
    if ablation:
        assert vanilla is not None, "looked at before anything was decoded"
        found = {
            run.name: [row.to_dict() for row in ablate(denoiser, asked, run, vanilla, batch=batch)]
            for run in runs
            if run is not vanilla and run.method.draft is None
        }
        document["rules"] = found
        draw_rules(found, f"{task}, {len(asked.items)} items, {model}", folder / "rules.png")
    if sweep:
        pareto(document["rows"], f"{task}, {len(asked.items)} items, {model}", folder / "pareto.png")
    text = json.dumps(document)
    write_atomically(folder / "summary.json", lambda place: place.write_text(text + "\n"))
    if as_json:
        print(text)
    else:
        _show(document, folder)


def _folder(
    model: "Denoiser", task: "Task", methods: "dict[str, Method]", weights: str, batch: int, max_new_tokens: int | None
) -> Path:
    """The same for the same command, so that it finds what it has left there."""
    from unmask.files import digest

    settings = [method.to_dict() for method in methods.values()]
    items = [[item.id, item.prompt] for item in task.items]
    key = digest([weights, model.device.type, str(model.dtype), list(methods), settings, items, batch, max_new_tokens])
    return Path("runs") / "eval" / f"{task.name}-{key[:8]}"


@contextmanager
def _bars(methods: list[str], items: int) -> "Iterator[Report]":
    """A progress bar a method on stderr, silent where that is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with progress(*columns) as display:
        bars = {name: display.add_task(name, total=items) for name in methods}
        yield lambda name, done, right: display.update(
            bars[name], completed=done, description=f"{name}  {100 * right:.0f} % right"
        )


def _show(document: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{document['task']}, {document['n']} items, {document['model']}", box=None, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold", min_width=14)
    for column in ("right", "95 %", "forwards", "tokens/\nforward", "tokens/s", "forwards\nvs first", "points\nvs first", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in document["rows"]:
        table.add_row(
            row["method"],
            f"{row['accuracy']:.1%}",
            f"{100 * row['accuracy_low']:.0f}-{100 * row['accuracy_high']:.0f}",
            f"{row['forwards_mean']:.2f}",
            f"{row['tokens_per_forward']:.2f}",
            f"{row['tokens_per_second']:.0f}",
            *(_change(row["against_first"]) if "against_first" in row else ()),
        )
    console = Console()
    console.print(table)
    if "oracle_forwards_mean" in document:
        console.print(f"an oracle that knows vanilla's answers: {document['oracle_forwards_mean']:.2f} forwards")
    for method, found in document.get("rules", {}).items():
        for rule in found:
            console.print(
                f"{method}: {rule['rule']} committed {rule['commits']} tokens, {rule['wrong_share']:.1%} of them not vanilla's",
                highlight=False,
            )
    too_long = document["rows"][0]["too_long"]
    if too_long:
        console.print(f"{too_long} of {document['n']} prompts exceed the model's context and count as wrong")
    console.print(f"results: {folder}", highlight=False, soft_wrap=True)


def _change(change: dict[str, Any]) -> tuple[str, str, str]:
    """How a method stands to the first one: forwards, points of accuracy, McNemar's p."""
    return f"{change['forwards_ratio'] - 1:+.1%}", f"{100 * change['accuracy_change']:+.1f}", f"{change['mcnemar_p']:.1g}"
