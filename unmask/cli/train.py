"""`unmask train`: make models."""

from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.choose import read_mapping

app = typer.Typer(no_args_is_help=True, help="Train models.", rich_markup_mode=None)


@app.callback()
def train() -> None:
    """Train models."""


@app.command()
def pretrain(config: Annotated[Path, typer.Option(help="Settings, for example configs/unmask-tiny.yaml.")]) -> None:
    """Train a small model from nothing; a killed run goes on where its last checkpoint was."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from unmask.train.pretrain import PretrainConfig
    from unmask.train.pretrain import pretrain as run

    chosen = PretrainConfig.from_dict(read_mapping(config))
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=chosen.steps)

        def report(step: int, measured: dict[str, float]) -> None:
            line = f"loss {measured['loss']:.3f}  {measured['tokens_per_second']:.0f} tokens/s"
            progress.update(bar, completed=step + 1, description=line)

        folder = run(chosen, report)
    print(folder)
