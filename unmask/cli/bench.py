"""`unmask bench`: how fast it is here."""

import json

import typer

from unmask.cli.choose import Json, Model

app = typer.Typer(help="Measure speed on this machine.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def bench(context: typer.Context, as_json: Json = False, model: Model = "unmask-tiny") -> None:
    """Measure speed on this machine; without a subcommand, `decode`."""
    if context.invoked_subcommand is None:
        decode(as_json=as_json, model=model)


@app.command()
def decode(as_json: Json = False, model: Model = "unmask-tiny") -> None:
    """Cost of one decision step at a real vocabulary, and tokens per second of every preset."""
    from rich.console import Console
    from rich.table import Table

    import unmask
    from unmask.bench.decode import decisions, document, speeds

    denoiser = unmask.load(model)
    progress = Console(stderr=True)
    with progress.status("") as status:

        def report(line: str) -> None:
            if progress.is_terminal:
                status.update(line)

        steps = decisions(report)
        rates = speeds(denoiser, report=report)
    if as_json:
        print(json.dumps(document(denoiser, steps, rates)))
        return
    console = Console()
    table = Table(title="one R2-dLLM decision, everything after the logits", box=None)
    for column in ("rows x block x vocabulary", "ours", "plain loop", "times faster"):
        table.add_column(column, justify="right")
    for step in steps:
        shape = f"{step.rows} x {step.length} x {step.vocabulary}"
        table.add_row(shape, f"{1e3 * step.ours:.1f} ms", f"{1e3 * step.plain:.1f} ms", f"{step.ratio:.1f}")
    console.print(table)
    table = Table(title=f"\nwhole decodes, {denoiser.name}, batch 1, {denoiser.device}", box=None)
    for column in ("method", "forwards", "tokens/s", "times itself uncached", "times vanilla"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for rate in rates:
        table.add_row(
            rate.method,
            f"{rate.forwards:.1f}",
            f"{rate.tokens_per_second:.0f}",
            f"{rate.times_no_cache:.1f}",
            f"{rate.times_vanilla:.1f}",
        )
    console.print(table)
