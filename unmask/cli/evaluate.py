"""`unmask eval`: methods over a task."""

import json
from typing import Annotated

import typer

from unmask.cli.choose import Device, Dtype, Json, Model, read_methods
from unmask.cli.compare import METHODS


def evaluate(
    task: Annotated[
        str,
        typer.Argument(
            help="A task of the embedded model (arithmetic, chain ...), or mixture for all of them; held-out problems."
        ),
    ],
    methods: Annotated[str, typer.Option(help="Presets or settings files, separated by commas.")] = METHODS,
    model: Model = "unmask-tiny",
    limit: Annotated[int, typer.Option(help="How many problems.")] = 200,
    seed: Annotated[int, typer.Option(help="Which problems.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Length of every answer in tokens.")] = 160,
    as_json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Accuracy, forwards and speed of methods over the same problems of TASK."""
    chosen = read_methods(methods)

    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    import unmask
    from unmask.evals.run import evaluate as run

    denoiser = unmask.load(model, device=device, dtype=dtype)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bars = {name: progress.add_task(name, total=limit) for name in chosen}
        summaries = run(
            denoiser,
            task,
            chosen,
            limit=limit,
            seed=seed,
            max_new_tokens=max_new_tokens,
            report=lambda name, done: progress.update(bars[name], completed=done),
        )
    rows = [summary.to_dict() for summary in summaries]
    if as_json:
        print(json.dumps({"task": task, "n": limit, "model": model, "rows": rows}))
        return
    table = Table(title=f"{task}, {limit} held-out problems, {model}", box=None)
    for column in ("method", "accuracy (95 %)", "by steps", "forwards", "tokens", "tokens/forward", "tokens/s"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in rows:
        table.add_row(
            row["method"],
            f"{row['accuracy']:.1%} ({row['accuracy_low']:.1%} to {row['accuracy_high']:.1%})",
            " ".join(f"{100 * share:.0f}" for share in row["accuracy_by_steps"].values()),
            f"{row['forwards_mean']:.1f}",
            f"{row['tokens_mean']:.1f}",
            f"{row['tokens_per_forward']:.2f}",
            f"{row['tokens_per_second']:.0f}",
        )
    Console().print(table)
