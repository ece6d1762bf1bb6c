"""The command line: one module per command, which imports what it needs only when it runs.

This module joins them and is the one place where an error becomes a line on stderr and an exit code: 2 for the user's
mistakes, 1 for the rest, 130 for Ctrl-C.
"""

import sys
import traceback
from typing import Protocol, runtime_checkable

import typer

from unmask.cli import batch, bench, calibrate, compare, evaluate, fill, generate, reproduce, serve, tasks, train, view
from unmask.errors import UnmaskError


@runtime_checkable
class Usage(Protocol):
    """An error in how a command was written."""

    exit_code: int

    def format_message(self) -> str: ...


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
app.command("tasks")(tasks.command)
app.add_typer(train.app, name="train")


@app.callback()
def options(
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
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


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
        return 2
    print(f"error: {type(error).__name__}: {line} (--traceback shows where)", file=sys.stderr)
    return 1
