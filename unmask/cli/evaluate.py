"""`unmask eval`: measure methods on a task."""

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from unmask.cli.choose import METHODS, Device, Dtype, Json, Model, progress, read_sweep
from unmask.errors import ConfigError, require

if TYPE_CHECKING:
    from unmask.evals.run import Report, Run
    from unmask.evals.task import Task
    from unmask.files import Journal
    from unmask.methods.method import Method
    from unmask.models.denoiser import Denoiser

TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="gsm8k, math500, humaneval, mbpp, svamp, sudoku, countdown (with --data); or held-out problems of the "
        "embedded model: arithmetic, chain ..., mixture for all of them.",
    ),
]
Methods = Annotated[str, typer.Option(help="Presets or settings files, separated by commas; the first is the baseline.")]
Data = Annotated[Path | None, typer.Option(help="Folder or file with the task's data.")]
Limit = Annotated[int | None, typer.Option(help="Number of items; default: all, or 200 of a generated task.")]
Shots = Annotated[int | None, typer.Option(help="Worked examples in the prompt; default: the task's usual number.")]
Length = Annotated[int | None, typer.Option(help="Length of every answer in tokens.")]
Sweep = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=A,B,C", help="Run every method that has this option with each value; repeatable."),
]
Ablation = Annotated[bool, typer.Option("--ablation", help="Also count what each rule committed, and how often it was right.")]
Output = Annotated[
    Path | None,
    typer.Option(help="Folder of the results; answers already in it are kept. Default: a folder under runs/eval."),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Measure anew: an earlier run's folder is renamed to NAME.1, or the next free name."),
]


def command(
    task: TaskName,
    methods: Methods = METHODS,
    model: Model = "unmask-tiny",
    data: Data = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of items.")] = 0,
    shots: Shots = None,
    max_new_tokens: Length = None,
    batch: Annotated[int, typer.Option(help="Prompts decoded at once.", min=1)] = 16,
    sweep: Sweep = None,
    ablation: Ablation = False,
    output: Output = None,
    fresh: Fresh = False,
    as_json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Measure accuracy, forwards and speed of several methods on the same items of TASK.

    Every answer is one line of its method's file in the output folder. The same command resumes a run that was stopped;
    once every answer is on disk, it decodes nothing and prints the table again.
    """
    chosen = read_sweep(methods, sweep)
    _check(chosen, ablation=ablation, sweep=bool(sweep))

    import unmask
    from unmask.evals import load
    from unmask.evals.task import Source
    from unmask.files import writing
    from unmask.models.loading import fingerprint, locate

    asked = load(task, Source(data=data, limit=limit, seed=seed, shots=shots))
    denoiser = unmask.load(model, device=device, dtype=dtype)
    weights = fingerprint(locate(model))
    folder = output or _folder(denoiser, asked, chosen, weights, batch, max_new_tokens)
    setup = _Setup(model=denoiser, task=asked, weights=weights, batch=batch, folder=folder)
    if fresh:
        _move_aside(folder)
    with writing(folder):
        runs = _answer(setup, chosen, max_new_tokens)
        document = _document(setup, runs, ablation=ablation)
        document = {"task": task, "n": len(asked.items), "model": model, **document}
        _keep(document, folder)
        if as_json:
            print(json.dumps(document), flush=True)
        else:
            _show(document, folder)
        _draw(document, folder, sweep=bool(sweep))


def _check(chosen: "Mapping[str, Method]", *, ablation: bool, sweep: bool) -> None:
    """Raises ConfigError for mistakes that show before a model is loaded."""
    if ablation and "vanilla" not in chosen:
        raise ConfigError("--ablation compares commits with vanilla's answers: add vanilla to --methods")
    if ablation and not any(name != "vanilla" and method.draft is None for name, method in chosen.items()):
        raise ConfigError("--ablation needs a method without drafts besides vanilla: add one to --methods")
    for option, asked in (("--ablation", ablation), ("--sweep", sweep)):
        if asked:
            require(f"the picture of {option}", "matplotlib", "eval")


def _folder(
    model: "Denoiser", task: "Task", methods: "Mapping[str, Method]", weights: str, batch: int, max_new_tokens: int | None
) -> Path:
    """A folder that depends on the command alone, so that a repeated command finds its earlier answers."""
    from unmask.files import digest

    settings = [method.to_dict() for method in methods.values()]
    items = [[item.id, item.prompt] for item in task.items]
    key = digest([weights, model.device.type, str(model.dtype), list(methods), settings, items, batch, max_new_tokens])
    return Path("runs") / "eval" / f"{task.name}-{key[:8]}"


def _move_aside(folder: Path) -> None:
    from unmask.files import move_aside

    if moved := move_aside(folder):
        typer.echo(f"{folder} is now {moved}", err=True)


class _Setup(NamedTuple):
    """The model, the task and the folder of one run."""

    model: "Denoiser"
    task: "Task"
    weights: str
    batch: int
    folder: Path


def _answer(setup: _Setup, methods: "Mapping[str, Method]", max_new_tokens: int | None) -> "list[Run]":
    """The runs of every method; prints a line if all answers were on disk already."""
    from unmask.evals.run import evaluate, file_name

    with _bars(list(methods), len(setup.task.items)) as report:
        runs = evaluate(
            setup.model,
            setup.task,
            methods,
            folder=setup.folder,
            weights=setup.weights,
            batch=setup.batch,
            max_new_tokens=max_new_tokens,
            report=report,
        )
    if not any(run.answered for run in runs):
        newest = max((setup.folder / file_name(run.name)).stat().st_mtime for run in runs)
        when = datetime.datetime.fromtimestamp(newest).strftime("%Y-%m-%d %H:%M")
        typer.echo(f"all answers are on disk (measured {when}); --fresh measures anew", err=True)
    return runs


def _document(setup: _Setup, runs: "Sequence[Run]", *, ablation: bool) -> dict[str, Any]:
    """The results as plain data; counts of the oracle and the ablation are kept in folders beside the answers."""
    from unmask.evals.ablation import ablate
    from unmask.evals.oracle import oracle
    from unmask.evals.summary import table

    document: dict[str, Any] = {"shots": setup.task.shots, "rows": table(runs)}
    vanilla = next((run for run in runs if run.name == "vanilla"), None)
    if vanilla is None:
        return document
    with _counts(setup, "oracle", vanilla, vanilla) as journal:
        forwards = oracle(setup.model, vanilla, journal)
    document["oracle_forwards_mean"] = sum(forwards) / len(forwards)
    if ablation:
        document["rules"] = {}
        for run in runs:
            if run is not vanilla and run.method.draft is None:
                with _counts(setup, "ablation", run, vanilla) as journal:
                    found = ablate(setup.model, setup.task, run, vanilla, batch=setup.batch, journal=journal)
                document["rules"][run.name] = [row.to_dict() for row in found]
    return document


def _counts(setup: _Setup, kind: str, run: "Run", vanilla: "Run") -> "Journal":
    """Open the journal of what is counted over a run's answers; the counts depend on vanilla's answers as well."""
    from unmask.evals.run import file_name, provenance
    from unmask.files import Journal

    model, task, _, _, folder = setup
    origin = {
        name: provenance(model, task, one.method, setup.weights, setup.batch)
        for name, one in (("run", run), ("vanilla", vanilla))
    }
    return Journal(folder / kind / file_name(run.name), origin, "counted")


def _keep(document: dict[str, Any], folder: Path) -> None:
    from unmask.files import write_atomically

    text = json.dumps(document)
    write_atomically(folder / "summary.json", lambda place: place.write_text(text + "\n"))


def _draw(document: dict[str, Any], folder: Path, *, sweep: bool) -> None:
    from unmask.evals.picture import pareto, rules

    title = f"{document['task']}, {document['n']} items, {document['model']}"
    if "rules" in document:
        rules(document["rules"], title, folder / "rules.png")
    if sweep:
        pareto(document["rows"], title, folder / "pareto.png")


@contextmanager
def _bars(methods: list[str], items: int) -> "Iterator[Report]":
    """A progress bar per method on stderr; silent if stderr is not a terminal."""
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
    """A method against the first one: forwards, points of accuracy, McNemar's p."""
    return f"{change['forwards_ratio'] - 1:+.1%}", f"{100 * change['accuracy_change']:+.1f}", f"{change['mcnemar_p']:.1g}"
