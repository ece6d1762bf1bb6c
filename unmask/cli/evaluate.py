"""`unmask eval`: measure methods on a task."""

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from unmask.cli.choose import (
    METHODS,
    Adapter,
    AddBos,
    Device,
    Dtype,
    Json,
    KvDtype,
    Model,
    Template,
    Weights,
    read_sweep,
)
from unmask.cli.console import progress
from unmask.errors import ConfigError, require

if TYPE_CHECKING:
    from unmask.evals.run import Report, Run
    from unmask.evals.task import Task
    from unmask.files import Journal
    from unmask.methods.method import Method
    from unmask.models.denoiser import Denoiser

Asked = Annotated[
    list[str],
    typer.Argument(
        metavar="TASK",
        help="gsm8k, math500, humaneval, mbpp, svamp, sudoku, countdown, parallelbench (with --data); or generated, held-out "
        "problems: arithmetic, chain ..., mixture for all that the embedded models know; waiting_line for ParallelBench's list "
        "operations, waiting_line_sort ... for one. With --compare: folders of results.",
    ),
]
Methods = Annotated[str, typer.Option(help="Presets or settings files, separated by commas; the first is the baseline.")]
Data = Annotated[
    Path | None, typer.Option(help="The task's data: a file, a folder, or a data set of the hub such as openai/gsm8k.")
]
Limit = Annotated[int | None, typer.Option(help="Number of items; default: all, or 200 of a generated task.")]
Shots = Annotated[int | None, typer.Option(help="Worked examples in the prompt; default: the task's usual number.")]
Length = Annotated[int | None, typer.Option(help="Length of every answer in tokens.")]
Sweep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=A,B,C",
        help="Run every method that has this option with each value, for a curve and its AUP; repeatable. threshold=grid: the "
        "ten values from 0.5 to 0.997 of a comparable AUP, with vanilla among --methods.",
    ),
]
Ablation = Annotated[bool, typer.Option("--ablation", help="Also count what each rule committed, and how often it was right.")]
Output = Annotated[
    Path | None,
    typer.Option(help="Folder of the results; answers already in it are kept. Default: a folder under runs/eval."),
]
Compare = Annotated[
    bool,
    typer.Option("--compare", help="Measure nothing: one table and picture of the folders that earlier runs have left."),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Measure anew: an earlier run's folder is renamed to NAME.1, or the next free name."),
]


def command(
    asked: Asked,
    methods: Methods = METHODS,
    model: Model = "unmask-tiny",
    data: Data = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of items.")] = 0,
    shots: Shots = None,
    max_new_tokens: Length = None,
    chat_template: Template = True,
    add_bos: AddBos = False,
    batch: Annotated[int, typer.Option(help="Prompts decoded at once.", min=1)] = 16,
    sweep: Sweep = None,
    ablation: Ablation = False,
    output: Output = None,
    fresh: Fresh = False,
    compare: Compare = False,
    as_json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    adapter: Adapter = None,
    kv_dtype: KvDtype = None,
) -> None:
    """Measure accuracy, forwards and speed of several methods on the same items of TASK.

    Every answer is one line of its method's file in the output folder. The same command resumes a run that was stopped;
    once every answer is on disk, it decodes nothing and prints the table again. `--compare FOLDER FOLDER` joins such folders.
    """
    if compare:
        _compare([Path(folder) for folder in asked], output, as_json=as_json)
        return
    if len(asked) > 1:
        raise ConfigError(f"one task at a time, got {', '.join(asked)}; --compare joins folders of results")
    task = asked[0]
    chosen = read_sweep(methods, sweep)
    _check(chosen, ablation=ablation, sweep=bool(sweep))

    import unmask
    from unmask.evals import load
    from unmask.evals.task import Source
    from unmask.files import writing
    from unmask.models.loading import identity

    problems = load(task, Source(data=data, limit=limit, seed=seed, shots=shots))
    denoiser = unmask.load(
        model,
        device=device,
        dtype=dtype,
        weights=weights,
        adapter=adapter,
        kv_dtype=kv_dtype,
        chat_template=chat_template,
        add_bos=add_bos,
    )
    numbers = identity(model, adapter, denoiser.weights)
    folder = output or _folder(denoiser, problems, chosen, numbers, batch, max_new_tokens)
    setup = _Setup(model=denoiser, task=problems, weights=numbers, batch=batch, folder=folder)
    if fresh:
        _move_aside(folder)
    with writing(folder):
        runs = _answer(setup, chosen, max_new_tokens)
        document = _document(setup, runs, ablation=ablation, sweep=bool(sweep))
        document = {"task": task, "n": len(problems.items), "model": model, "weights": denoiser.weights, **document}
        _publish(document, folder, as_json=as_json)


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
    """A folder that depends on the command and the model alone, so that a repeated command finds its earlier answers."""
    from unmask.engine.own import completed
    from unmask.evals.run import kept
    from unmask.files import digest

    settings = [completed(model, method).to_dict() for method in methods.values()]
    items = [[item.id, item.prompt] for item in task.items]
    asked = [told for told in (model.prompting.to_dict(), kept(model)) if told]
    key = digest([weights, model.device.type, str(model.dtype), list(methods), settings, items, batch, max_new_tokens, *asked])
    return Path("runs") / "eval" / f"{task.name}-{key[:8]}"


def _publish(document: dict[str, Any], folder: Path, *, as_json: bool) -> None:
    """Keep the document, print it, and draw what it has."""
    from unmask.cli import results

    results.keep(document, folder)
    if as_json:
        print(json.dumps(document), flush=True)
    else:
        results.show(document, folder)
    results.draw(document, folder)


def _compare(folders: list[Path], output: Path | None, *, as_json: bool) -> None:
    """Join folders of results; the joint ones are kept in a folder of their own."""
    require("the picture of --compare", "matplotlib", "eval")

    from unmask.evals.compare import compare
    from unmask.files import digest, writing

    document = compare(folders)
    key = digest([str(folder.resolve()) for folder in folders])
    folder = output or Path("runs") / "eval" / f"{document['task']}-compared-{key[:8]}"
    with writing(folder):
        _publish(document, folder, as_json=as_json)


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
    for run in runs:
        if errors := [record.error for record in run.records if record.error]:
            typer.echo(f"{len(errors)} of {len(run.records)} items of {run.name} have no answer: {errors[0]}", err=True)
    if not any(run.answered for run in runs):
        newest = max((setup.folder / file_name(run.name)).stat().st_mtime for run in runs)
        when = datetime.datetime.fromtimestamp(newest).strftime("%Y-%m-%d %H:%M")
        typer.echo(f"all answers are on disk (measured {when}); --fresh measures anew", err=True)
    return runs


def _document(setup: _Setup, runs: "Sequence[Run]", *, ablation: bool, sweep: bool) -> dict[str, Any]:
    """The results as plain data; counts of the oracle and the ablation are kept in folders beside the answers."""
    from unmask.evals.ablation import ablate
    from unmask.evals.oracle import oracle
    from unmask.evals.summary import best, swept, table

    rows = table(runs)
    document: dict[str, Any] = {"shots": setup.task.shots, "end_id": runs[0].end_id, "rows": rows}
    if sweep:
        document["curves"] = swept(rows, best(rows))
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
    fields = {"id": str, "rules" if kind == "ablation" else "forwards": object}
    return Journal(folder / kind / file_name(run.name), origin, "counted", fields=fields)


@contextmanager
def _bars(methods: list[str], items: int) -> "Iterator[Report]":
    """A progress bar per method on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with progress(*columns) as display:
        bars = {name: display.add_task(name, total=items) for name in methods}
        yield lambda name, done, right: display.update(
            bars[name], completed=done, description=f"{name}  {100 * right:.0f} % right"
        )
