"""`unmask bench`: measure speed on this machine."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.cli.choose import Adapter, Device, Json, Model, Weights, read_method
from unmask.cli.console import progress
from unmask.errors import ConfigError, install

if TYPE_CHECKING:
    from unmask.bench.peers import Peers
    from unmask.models.denoiser import Denoiser


def command(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help="floors, shapes, decode, types, growth, profile or peers; default: the first five."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File of the document or, with --compare, of the page.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw the document (png, svg, pdf); needs matplotlib.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Less of everything, for a first look: under a minute on two free cores.")
    ] = False,
    note: Annotated[str, typer.Option(help="What a reader of the document should know, such as other programs that ran.")] = "",
    source: Annotated[
        Path | None, typer.Option("--from", help="Measure nothing: show, draw or print the document in this file.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Measure nothing: a page of the documents *-bench-*.json in this folder.")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COMMAND",
            help="With peers: a command that decodes the same weights, {model} being their folder; repeatable. "
            "Default: the plain loop.",
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help="With peers: what all decode with; default: fast-dllm-official.")] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="With peers: seconds of one turn, loading included; default: 600.")
    ] = None,
    model: Model = "unmask-tiny",
    device: Device = "auto",
    weights: Weights = None,
    adapter: Adapter = None,
    as_json: Json = False,
) -> None:
    """Measure speed on this machine: its floors, networks of the published shapes, real decodes, growth.

    The file of -o is saved after every measurement, so an interrupted run leaves what it has measured.
    """
    if (source or compare) and (parts or quick or note):
        raise ConfigError("--from and --compare measure nothing: leave parts, --quick and --note out")
    if source and compare:
        raise ConfigError("--from reads one document and --compare many: give one of the two")
    if compare:
        _compare(compare, output)
        return
    if source:
        from unmask.bench.run import read

        _publish(read(_text(source), str(source)), output, picture, as_json)
        return
    if picture:
        _can_draw()
    asked = _peers(peer, method, time_limit) if "peers" in (parts or []) else None
    if asked is None and (peer or method or time_limit is not None):
        raise ConfigError("--peer, --method and --time-limit belong to `unmask bench peers`")

    from unmask.bench import run
    from unmask.models.loading import find_device

    place = find_device(device)
    today = datetime.date.today().isoformat()
    document = run.start(parts or [], place, model=model, date=today, quick=quick, note=note)
    failures: list[str] = []

    def load() -> "Denoiser":
        import unmask

        return unmask.load(model, device=str(place), weights=weights, adapter=adapter)

    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    try:
        with progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as display:
            line = display.add_task("", total=None)

            def report(text: str) -> None:
                display.update(line, description=text)
                if output is not None:  # now, because a kill leaves no time for it
                    _keep(output, json.dumps(document) + "\n")

            failures = run.run(document, place, load, report, asked)
    finally:
        # Also after Ctrl-C or an error: what was measured until then is a valid document.
        _publish(document, output, picture if any(document["parts"].values()) else None, as_json)
    if failures:
        for failure in failures:
            typer.echo(f"not measured: {failure}", err=True)
        raise typer.Exit(1)


def _peers(commands: list[str] | None, method: str | None, limit: float | None) -> "Peers":
    from unmask.bench.peer import Command
    from unmask.bench.peers import LIMIT, USUAL, Peers

    return Peers(
        commands=[Command.parse(text) for text in commands] if commands else USUAL,
        method=None if method is None else read_method(method),
        limit=LIMIT if limit is None else limit,
    )


def _publish(document: dict[str, Any], output: Path | None, picture: Path | None, as_json: bool) -> None:
    """Save, print and draw a document."""
    text = json.dumps(document)
    if output is not None:
        _keep(output, text + "\n")
    if as_json:
        print(text)
    else:
        _show(document)
    if picture is not None:
        from unmask.bench.picture import draw

        draw(document, picture)


def _keep(path: Path, text: str) -> None:
    from unmask.files import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda place: place.write_text(text))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'no text'})") from None


def _can_draw() -> None:
    """Raises ConfigError without matplotlib: before an hour of measuring, not after it."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise ConfigError(f"--picture needs matplotlib: {install('eval')}, or draw later with --from")


def _compare(folder: Path, output: Path | None) -> None:
    """Write the page and, beside it, the picture of its newest document."""
    from unmask.bench.page import page
    from unmask.bench.picture import draw
    from unmask.bench.run import read

    if output is None:
        raise ConfigError("--compare writes a page: say where with -o docs/speed.md")
    files: Sequence[Path] = sorted(folder.glob("*-bench-*.json"))
    if not files:
        raise ConfigError(f"{folder}: no *-bench-*.json there; `unmask bench -o` makes them")
    documents = [read(_text(file), str(file)) for file in files]
    image = output.with_suffix(".png")
    drawn = [document for document in documents if {"shapes", "decode", "growth"} & document["parts"].keys()]
    draw(max(drawn or documents, key=lambda document: str(document["date"])), image)
    compared = [read(_text(file), str(file), "before_after") for file in sorted(folder.glob("*-before-after-*.json"))]
    cards = [read(_text(file), str(file), "gpu_hour") for file in sorted(folder.glob("????-??-??-gpu-*.json"))]
    _keep(output, page(documents, image.name, compared, cards))


def _show(document: dict[str, Any]) -> None:
    from unmask.bench.report import tables
    from unmask.cli.console import Column, console, print_table

    machine = document["machine"]
    about = [document["date"], machine["name"], f"{machine['threads']} threads", f"torch {machine['torch']}"]
    console().print(", ".join([*about, *([document["note"]] if document["note"] else [])]))
    for made in tables(document):
        print_table([Column(name, text=True) for name in made.columns], made.rows, title=f"\n{made.title}")
