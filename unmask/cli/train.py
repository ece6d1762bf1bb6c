"""`unmask train`: train models, and fine-tune them on their own least redundant answers."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.cli.choose import Json, read_settings
from unmask.cli.console import progress
from unmask.errors import require

if TYPE_CHECKING:
    from unmask.train.budget import Budget
    from unmask.train.sft import SFTConfig
    from unmask.train.trainer import Report

app = typer.Typer(no_args_is_help=True, help="Train models.", rich_markup_mode=None)
Config = Annotated[Path, typer.Option(help="A YAML file of settings; see configs/.")]
NAMED = 20  # examples that are left out and named on the terminal
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
        path = run(plan, lambda done, right: update(done, f"prompts, {right:.0%} of the last answers right"), _left_out)
    print(path)


@app.command()
def sft(
    config: Config,
    settings: Changes = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print memory, steps and FLOPs; needs no weights.")] = False,
    example: Annotated[
        int | None, typer.Option("--show-example", metavar="N", min=1, help="Print example N as the model will see it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a model on what `collect` wrote, or on conversations; a killed run resumes from its last checkpoint.

    Conversations are JSONL, JSON or parquet files, or folders of them, of messages, prompt and completion, or instruction,
    input and output. Broken and too long examples are left out and named.

    For a dry run without model and data, the settings may hold `shape` (the model's config.json) and `examples`.
    """
    plan, shape, examples = _tuning(config, settings)

    from unmask.train.sft import sft as run

    if example is not None:
        from unmask.cli.example import print_example

        print_example(plan, example)
        return
    if dry_run:
        from unmask.train.budget import estimate

        budget = estimate(plan, shape, examples)
        if as_json:
            print(json.dumps(budget.to_dict()))
        else:
            _show(budget)
        return
    told: list[object] = []
    with _steps(None) as report:
        folder = run(plan, report, told.append)
    for one in told[:NAMED]:
        _left_out(one)
    if len(told) > NAMED:
        _left_out(f"and {len(told) - NAMED} more")
    if told:
        typer.echo(f"{len(told)} examples were left out; {folder}/left_out.txt names all of them", err=True)
    _say(json.dumps({"output": str(folder)}) if as_json else str(folder))


@app.command()
def merge(
    config: Annotated[Path | None, typer.Option(help="The settings file of the `sft` that made the adapter.")] = None,
    settings: Changes = None,
) -> None:
    """Merge an adapter into its base model: into OUTPUT/merged, where OUTPUT is the folder that holds the adapter.

    Takes the settings file of `sft`, or for any other adapter of peft: --set model=BASE --set output=FOLDER.
    """
    chosen = {"data": "none"} | (read_settings(settings) if config is None else _read(config, settings))

    from unmask.train.sft import SFTConfig
    from unmask.train.sft import merge as run

    print(run(SFTConfig.from_dict({name: value for name, value in chosen.items() if name not in ("shape", "examples")})))


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


def _left_out(what: object) -> None:
    typer.echo(f"left out: {what}", err=True)


def _say(line: str) -> None:
    """Print from the first process alone, however many a launcher has started."""
    if os.environ.get("RANK", "0") == "0":
        print(line)


@contextmanager
def _bar(total: int | None) -> Iterator[Any]:
    """A progress bar on stderr; yields update(done, text)."""
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
    from unmask.cli.console import Column, print_table

    gib = 2**30
    rows = (
        ("parameters", f"{budget.parameters / 1e9:.3f} billion, {budget.trained / 1e6:.2f} million of them trained"),
        *((("  per token", f"{budget.active / 1e9:.3f} billion"),) if budget.active < budget.parameters else ()),
        ("examples", f"{budget.examples:,}"),
        ("steps", f"{budget.steps:,} of {budget.rows_per_step} rows"),
        ("tokens", f"{budget.tokens / 1e9:.3f} billion"),
        ("operations", f"{budget.flops:.2e}"),
        ("time", f"{budget.hours:.1f} hours on one H100 at {budget.peak_share:.0%} of its peak of 989 TFLOP/s"),
        ("memory, each device", f"{budget.memory_bytes / gib:.1f} GiB"),
        ("  weights", f"{budget.weights_bytes / gib:.1f} GiB"),
        ("  trained part", f"{budget.optimizer_bytes / gib:.2f} GiB"),
        ("  activations", f"{budget.activation_bytes / gib:.1f} GiB"),
    )
    print_table((Column(""), Column("", text=True)), rows)
