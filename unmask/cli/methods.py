"""`unmask methods`: the presets and their options, a line each."""

import json
from typing import Annotated

import typer

from unmask.cli.choose import Json

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="A preset, or package.module:function.")]


def command(name: Name = None, as_json: Json = False) -> None:
    """List the presets or, with NAME, the options of one with their defaults.

    An option is changed with `--set option=value`, in Python with `unmask.method(NAME, option=value)`.
    """
    _options(name, as_json=as_json) if name else _presets(as_json=as_json)


def _presets(*, as_json: bool) -> None:
    from unmask.cli.console import Column, console, print_table
    from unmask.methods import TABLE
    from unmask.methods.describe import sentence

    if as_json:
        print(json.dumps({"methods": [{"name": name, "sentence": sentence(name)} for name in TABLE]}))
        return
    plain = [name for name in TABLE if not name.endswith("-official")]
    print_table((Column("method"), Column("what it is", text=True)), [(name, sentence(name)) for name in plain])
    twins = [name for name in plain if f"{name}-official" in TABLE]
    console().print(
        f"\nNAME-official is the published behaviour, token for token; of {', '.join(twins)}."
        "\n`unmask methods NAME` lists the options of one."
    )


def _options(name: str, *, as_json: bool) -> None:
    from unmask.cli.console import Column, console, print_table
    from unmask.methods.describe import describe, sentence

    rows = describe(name)
    if as_json:
        print(json.dumps({"name": name, "sentence": sentence(name), "options": [row._asdict() for row in rows]}))
        return
    console().print(f"{name}: {sentence(name)}\n")
    columns = (Column("option"), Column("default"), Column("values", text=True), Column("what it means", text=True))
    print_table(columns, rows)
