"""`unmask models`: the models that have a short name, what is known of them, and whether they fit here."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from unmask.cli.choose import Json

if TYPE_CHECKING:
    import torch

    from unmask.engine.catalogue import Entry

Name = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", help="A short name, a Hugging Face id, an embedded model or a checkpoint folder."),
]


def command(name: Name = None, as_json: Json = False) -> None:
    """List the models that have a short name or, with NAME, all that is known of one, where it was read, and its settings.

    Short names stand wherever --model does. Memory is that of the weights, of the keys and values of one row of 2,048 tokens,
    and of the largest forward, worked out from the model's config. Nothing is downloaded.
    """
    from unmask.engine.catalogue import document, entries, entry
    from unmask.models.loading import find_device

    device = find_device("auto")
    shown = [entry(name)] if name else entries()
    if as_json:
        print(json.dumps({"models": [document(one, device, whole=name is not None) for one in shown]}))
    elif name:
        _show(shown[0], device)
    else:
        _list(shown, device)


def _list(shown: "list[Entry]", device: "torch.device") -> None:
    from unmask.cli.console import Column, console, numbers, print_table
    from unmask.engine.catalogue import KINDS
    from unmask.models.shelf import UNKNOWN

    rows = []
    for one in shown:
        needs = one.needs(KINDS, device)
        sizes = [_gigabytes(needs[kind].total) if needs else UNKNOWN for kind in KINDS]
        rows.append((one.name, count(one.parameters), *sizes, one.fitting(device)))
    columns = (Column("name"), *numbers("parameters", *(f"GB as {kind}" for kind in KINDS)), Column("fits here as"))
    print_table(columns, rows)
    console().print(
        f"\nMemory of one row of 2,048 tokens, weights included; free here: {_free(device)}."
        "\n`unmask models NAME` says where its facts are from and which settings were published for it."
    )


def _show(one: "Entry", device: "torch.device") -> None:
    from unmask.cli.console import Column, console, numbers, print_table
    from unmask.engine.catalogue import KINDS, sources, word

    out = console()
    out.print(f"{one.name}: {one.hub_id or 'here'}\n")
    number = sources([*one.facts, *one.settings])
    facts = [
        (fact.name.replace("_", " "), word(fact.value), str(number.get((fact.source, fact.read), ""))) for fact in one.facts
    ]
    print_table((Column("fact"), Column("value", text=True), Column("source")), facts)
    needs = one.needs(("fp32", "bf16", "int8", "fp8", "int4"), device)
    if needs:
        headings = ("weights", "keys, values", "activations", "while loading", "most at once")
        rows = [(kind, *map(_gigabytes, (*need, need.total))) for kind, need in needs.items()]
        print_table((Column("type"), *numbers(*headings)), rows, title="\nGB of one row of 2,048 tokens, or of the longest")
        fits = one.fitting(device, KINDS)
        out.print(f"free here: {_free(device)}; it {'does not fit' if fits == 'no' else f'fits as {fits}'}")
    out.print(f"\nwithout --method: {one.method}")
    if one.settings:
        columns = (Column("preset"), Column("setting"), Column("value"), Column("in place of"), Column("source"))
        rows = [
            (
                part.preset or "every one",
                part.setting,
                word(part.value),
                word(part.replaced),
                str(number[part.source, part.read]),
            )
            for part in one.settings
        ]
        print_table(columns, rows, title="unnamed settings of a preset; named ones win, and -official never changes")
    if one.sampling:
        said = ", ".join(f"{name} {value}" for name, value in one.sampling.items())
        out.print(f"\nits generation_config.json says {said}; not applied unless named")
    out.print("\nsources")
    for (source, read), place in number.items():
        out.print(f"{place}  {source}{f' ({read})' if read else ''}", soft_wrap=True)


def count(parameters: int | str) -> str:
    """A number of parameters in a table.

    >>> count(8015581184), count(1556960), count("unknown")
    ('8.0B', '1.6M', 'unknown')
    """
    if isinstance(parameters, str):
        return parameters
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e8 else f"{parameters / 1e6:.1f}M"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f}" if size >= 1e8 else f"{size / 1e9:.3f}"


def _free(device: "torch.device") -> str:
    from unmask.models.room import free, gigabytes

    left = free(device)
    return "unknown" if left is None else f"{gigabytes(left)} of {'GPU memory' if device.type == 'cuda' else 'memory'}"
