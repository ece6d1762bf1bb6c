"""`unmask train`: train models, and fine-tune them on their own least redundant answers."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.cli.choose import Json, progress, read_settings
from unmask.errors import require

if TYPE_CHECKING:
    from unmask.train.budget import Budget
    from unmask.train.sft import SFTConfig
    from unmask.train.trainer import Report

app = typer.Typer(no_args_is_help=True, help="Train models.", rich_markup_mode=None)
Config = Annotated[Path, typer.Option(help="A YAML file of settings; see configs/.")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable.")]


@app.callback()
def train() -> None:
    """Train models."""
    for package in ("accelerate", "peft", "matplotlib"):
        require("training", package, "train")


@app.command()
def pretrain(config: Config, settings: Changes = None) -> None:
    """Train a small model from scratch; a killed run resumes from its last checkpoint."""
    chosen = _read(config, settings)

    from unmask.train.pretrain import PretrainConfig
    from unmask.train.pretrain import pretrain as run

    plan = PretrainConfig.from_dict(chosen)
    with _steps(plan.steps) as report:
        folder = run(plan, report)
    _say(str(folder))


@app.command()
def collect(config: Config, settings: Changes = None) -> None:
    """Sample answers to training prompts and count how redundant each decode was; a stopped run resumes."""
    chosen = _read(config, settings)

    from unmask.train.collect import CollectConfig
    from unmask.train.collect import collect as run

    plan = CollectConfig.from_dict(chosen)
    with _bar(plan.limit) as update:
        path = run(plan, lambda done, right: update(done, f"prompts, {right:.0%} of the last answers right"))
    print(path)


@app.command()
def sft(
    config: Config,
    settings: Changes = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print memory, steps and FLOPs; needs no weights.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model on the chosen answers of `collect`; a killed run resumes from its last checkpoint.

    For a dry run without model and data, the settings may hold `shape` (the model's config.json) and `examples`.
    """
    plan, shape, examples = _tuning(config, settings)

    from unmask.train.sft import sft as run

    if dry_run:
        from unmask.train.budget import estimate

        budget = estimate(plan, shape, examples)
        if as_json:
            print(json.dumps(budget.to_dict()))
        else:
            _show(budget)
        return
    with _steps(None) as report:
        folder = run(plan, report)
    _say(json.dumps({"output": str(folder)}) if as_json else str(folder))


@app.command()
def merge(config: Config, settings: Changes = None) -> None:
    """Merge the adapter that `sft` made into its base model; takes the same settings file."""
    plan, _, _ = _tuning(config, settings)

    from unmask.train.sft import merge as run

    print(run(plan))


@app.command()
def head(config: Config, settings: Changes = None) -> None:
    """Train a commit head, which the rule `learned` asks, on the model's own answers that `collect` wrote."""
    chosen = _read(config, settings)

    from unmask.train.head import HeadConfig, train_head

    plan = HeadConfig.from_dict(chosen)
    with _bar(plan.passes) as update:
        path = train_head(plan, lambda done, text: update(done, text))
    print(path)


def _read(config: Path, settings: list[str] | None) -> dict[str, Any]:
    from unmask.methods.settings import read_mapping

    return read_mapping(config) | read_settings(settings)


def _tuning(config: Path, settings: list[str] | None) -> "tuple[SFTConfig, dict[str, Any] | None, int | None]":
    """The settings of a fine-tuning and, apart from them, what only a dry run reads: `shape` and `examples`."""
    chosen = _read(config, settings)
    shape, examples = chosen.pop("shape", None), chosen.pop("examples", None)

    from unmask.train.sft import SFTConfig

    return SFTConfig.from_dict(chosen), shape, examples


def _say(line: str) -> None:
    """Print from the first process alone, however many a launcher has started."""
    if os.environ.get("RANK", "0") == "0":
        print(line)


@contextmanager
def _bar(total: int | None) -> Iterator[Any]:
    """A progress bar on stderr, silent if stderr is not a terminal; yields update(done, text)."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with progress(*columns) as display:
        bar = display.add_task("", total=total)
        yield lambda done, text: display.update(bar, completed=done, description=text)


@contextmanager
def _steps(total: int | None) -> "Iterator[Report]":
    with _bar(total) as update:
        yield lambda step, measured: update(
            step + 1, f"loss {measured['loss']:.3f}  {measured['tokens_per_second']:.0f} tokens/s"
        )


def _show(budget: "Budget") -> None:
    from rich.console import Console
    from rich.table import Table

    gib = 2**30
    table = Table(box=None, show_header=False)
    for name, value in (
        ("parameters", f"{budget.parameters / 1e9:.3f} billion, {budget.trained / 1e6:.2f} million of them trained"),
        ("examples", f"{budget.examples:,}"),
        ("steps", f"{budget.steps:,} of {budget.rows_per_step} rows"),
        ("tokens", f"{budget.tokens / 1e9:.3f} billion"),
        ("operations", f"{budget.flops:.2e}; {budget.flops / 4e14 / 3600:.1f} hours at 400 TFLOP/s"),
        ("memory, each device", f"{budget.memory_bytes / gib:.1f} GiB"),
        ("  weights", f"{budget.weights_bytes / gib:.1f} GiB"),
        ("  trained part", f"{budget.optimizer_bytes / gib:.2f} GiB"),
        ("  activations", f"{budget.activation_bytes / gib:.1f} GiB"),
    ):
        table.add_row(name, value)
    Console().print(table)
