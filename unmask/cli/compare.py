"""`unmask compare`: one prompt, several methods, one table."""

import json
from typing import Annotated

import typer

from unmask.cli.choose import METHODS, Device, Dtype, Json, Model, NewTokens, read_methods


def command(
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    methods: Annotated[
        str, typer.Option(help="Presets or settings files, separated by commas; the first is the baseline.")
    ] = METHODS,
    model: Model = "unmask-tiny",
    max_new_tokens: NewTokens = None,
    as_json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Answer PROMPT with several methods and show the cost of each."""
    chosen = read_methods(methods)

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    import unmask

    denoiser = unmask.load(model, device=device, dtype=dtype)
    for method in chosen.values():  # warm-up: the first forwards of a process are slower than later ones
        unmask.generate(denoiser, [prompt], method=method, max_new_tokens=max_new_tokens)
    done = {
        name: unmask.generate(denoiser, [prompt], method=method, max_new_tokens=max_new_tokens)[0]
        for name, method in chosen.items()
    }
    if as_json:
        rows = [
            {
                "method": name,
                "text": row.text,
                "forwards": row.forwards,
                "tokens": row.tokens,
                "tokens_per_forward": row.tokens_per_forward,
                "query_tokens": row.query_tokens,
                "seconds": row.seconds,
            }
            for name, row in done.items()
        ]
        print(json.dumps({"prompt": prompt, "model": model, "rows": rows}))
        return
    console = Console()
    first = next(iter(done.values()))
    console.print(f"\n{denoiser.name}: {prompt}\n\n  {first.text}\n", highlight=False, markup=False)
    table = Table(box=None, pad_edge=True)
    table.add_column("method")
    for column in ("forwards", "saved", "tokens/forward", "seconds"):
        table.add_column(column, justify="right")
    table.add_column("answer")
    for name, row in done.items():
        saved = f"{100 * (1 - row.forwards / first.forwards):.0f} %" if row is not first else ""
        same = "the same" if row.text == first.text else row.text
        answer = "as above" if row is first else same
        cells = (name, str(row.forwards), saved, f"{row.tokens_per_forward:.2f}", f"{row.seconds:.3f}", answer)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
