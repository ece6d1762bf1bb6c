"""`unmask reproduce`: run a paper's table again and set our numbers beside the published ones."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unmask.cli.choose import (
    Adapter,
    Device,
    Dtype,
    Json,
    Weights,
)
from unmask.cli.console import progress

if TYPE_CHECKING:
    from unmask.evals.paper import Entry
    from unmask.evals.reproduce import Report


def command(
    file: Annotated[Path, typer.Argument(help="A table of a paper; see configs/paper.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with one folder per task: DATA/gsm8k, DATA/mbpp ...; hub: the data sets of the hub."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A model instead of the table's; a checkpoint folder of the same name counts as the table's."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most this many items per task.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks of the table, separated by commas.")] = None,
    shots: Annotated[
        int | None,
        typer.Option(help="At most this many worked examples per prompt, for a model of short context; the result says so."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Prompts decoded at once; the papers measured speed with one.", min=1)] = 1,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the results; answers already in it are kept. Default: one under runs/reproduce."),
    ] = None,
    chat_template: Annotated[
        bool | None,
        typer.Option(
            "--chat-template/--no-chat-template",
            help="Ask with or without the model's chat template; default: as the paper asked its model, another one with it.",
        ),
    ] = None,
    add_bos: Annotated[
        bool | None,
        typer.Option("--add-bos/--no-add-bos", help="Begin every prompt with the BOS token; default: as for the template."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the published numbers and why some rows are not run; needs no model.")
    ] = False,
    as_json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    adapter: Adapter = None,
) -> None:
    """Answer the tasks of the table in FILE with its methods and settings, and set the published numbers beside ours.

    The same command resumes a run that was stopped. table.md and table.json in the output folder hold the result.
    """
    from unmask.evals import reproduce as kit
    from unmask.evals.paper import PaperTable
    from unmask.methods.settings import read_mapping

    table = PaperTable.from_dict(read_mapping(file))
    if tasks is not None:
        table = table.only([name for name in tasks.split(",") if name])
    if dry_run:
        found = kit.published(table)
        print(json.dumps(found) if as_json else kit.markdown(found), end="\n" if as_json else "")
        return

    import unmask
    from unmask.files import write_atomically, writing
    from unmask.models.loading import identity

    asked = kit.tasks(table, data, limit=limit, shots=shots)
    name = model or table.model
    denoiser = unmask.load(name, device=device, dtype=dtype, weights=weights, adapter=adapter)
    numbers = identity(name, adapter, denoiser.weights)
    usual = table.prompting if table.is_of(name) else denoiser.prompting
    denoiser = denoiser.asked(
        chat_template=usual.chat_template if chat_template is None else chat_template,
        add_bos=usual.add_bos if add_bos is None else add_bos,
    )
    folder = output or Path("runs") / "reproduce" / file.stem / Path(name).name
    items = sum(len(task.items) * len(table.runnable(entry)) for entry, task in zip(table.entries, asked, strict=True))
    with writing(folder):
        with _bar(items) as report:
            outcomes = kit.reproduce(
                denoiser,
                table,
                asked,
                folder=folder,
                weights=numbers,
                batch=batch,
                report=report,
            )
        found = kit.document(
            table, outcomes, model=name, device=kit.hardware(denoiser), batch=batch, prompting=denoiser.prompting
        )
        document, page = json.dumps(found), kit.markdown(found)
        write_atomically(folder / "table.json", lambda path: path.write_text(document + "\n"))
        write_atomically(folder / "table.md", lambda path: path.write_text(page))
    print(document if as_json else f"{page}\nresults: {folder}")


@contextmanager
def _bar(total: int) -> "Iterator[Report]":
    """One progress bar over all answers on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    answered: dict[tuple[str, str], int] = {}
    with progress(*columns) as display:
        bar = display.add_task("", total=total)

        def report(entry: "Entry", row: str, done: int, right: float) -> None:
            answered[entry.title, row] = done
            description = f"{entry.title}: {row}, {right:.0%} right"
            display.update(bar, completed=sum(answered.values()), description=description)

        yield report
