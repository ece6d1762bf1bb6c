"""The command line: one module per command, which imports what it needs only when it runs.

This module joins them and is the one place where an error becomes a line on stderr and an exit code: 2 for the user's
mistakes, 1 for the rest, 130 for Ctrl-C.
"""

import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import typer

from unmask.cli import (
    batch,
    bench,
    calibrate,
    compare,
    evaluate,
    fill,
    generate,
    methods,
    models,
    quantize,
    reproduce,
    serve,
    tasks,
    train,
    view,
)
from unmask.errors import LogitsError, UnmaskError


@runtime_checkable
class Usage(Protocol):
    """An error in how a command was written."""

    exit_code: int

    def format_message(self) -> str: ...


INTERRUPTED = 130  # what typer makes of KeyboardInterrupt: 128 + SIGINT

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Fast decoding for masked diffusion language models.",
    rich_markup_mode=None,
)
app.command("generate")(generate.command)
app.command("fill")(fill.command)
app.command("compare")(compare.command)
app.command("eval")(evaluate.command)
app.command("batch")(batch.command)
app.command("calibrate")(calibrate.command)
app.command("reproduce")(reproduce.command)
app.command("view")(view.command)
app.command("serve")(serve.command)
app.command("bench")(bench.command)
app.command("quantize")(quantize.command)
app.command("methods")(methods.command)
app.command("models")(models.command)
app.command("tasks")(tasks.command)
app.add_typer(train.app, name="train")


ON_DISK = "the same command goes on from the answers that are on disk"
CHECKPOINT = "the same command goes on from the last checkpoint"
# What Ctrl-C leaves, by command; the others leave nothing and begin anew.
LEFT: Mapping[str, str] = {
    "eval": ON_DISK,
    "batch": ON_DISK,
    "calibrate": ON_DISK,
    "reproduce": ON_DISK,
    "train collect": ON_DISK,
    "train sft": CHECKPOINT,
    "train pretrain": CHECKPOINT,
    "bench": "what was measured is above and in the file of -o; the same command measures anew",
}


def _version(wanted: bool) -> None:
    if wanted:
        from unmask import __version__

        print(f"unmask {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    show_traceback: bool = typer.Option(
        False, "--traceback", help="Show the whole traceback of an error; allowed anywhere on the line."
    ),
) -> None:
    """Fast decoding for masked diffusion language models."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; ends the process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    whole = "--traceback" in given
    given = [argument for argument in given if argument != "--traceback"]
    try:
        code = app(given, standalone_mode=False)
    except Exception as error:
        if whole:
            traceback.print_exc()
        code = report(error)
    if code == INTERRUPTED:
        print(_interrupted(given), file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupted(given: Sequence[str]) -> str:
    """What Ctrl-C has stopped and how to go on.

    >>> _interrupted(["eval", "arithmetic", "--fresh"])
    'interrupted: without --fresh the same command goes on from the answers that are on disk'
    """
    left = LEFT.get(given[0], LEFT.get(" ".join(given[:2]), "the same command begins anew")) if given else ""
    if left == ON_DISK and "--fresh" in given:
        left = f"without --fresh {left}"
    return f"interrupted: {left}"


def report(error: Exception) -> int:
    """Say in one line what went wrong; returns the exit code."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    # Typer carries its own copy of click, so its errors are recognised by their methods.
    if isinstance(error, Usage):
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return 0
        print(f"error: {' '.join(error.format_message().split())}", file=sys.stderr)
        return 2
    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnmaskError):
        print(f"error: {line}", file=sys.stderr)
        return 1 if isinstance(error, LogitsError) else 2
    if isinstance(error, OSError) and error.filename and error.strerror:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"error: {type(error).__name__}: {line} (--traceback shows where)", file=sys.stderr)
    return 1
