"""`unmask batch`: answer a dataset."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.choose import Device, Dtype, Json, Model, NewTokens, Settings, progress, read_method


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN.jsonl",
            help='{"prompt": "..."} a line, or "messages", or "token_ids"; with "id", "method", "max_new_tokens", '
            '"temperature", "top_p", "top_k", "seed" or "stop" of its own where it has them.',
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="One line for each, in the same order.")],
    model: Model = "unmask-tiny",
    method: Annotated[str, typer.Option(help="A preset (unmask compare lists them) or a settings file.")] = "r2-dllm",
    settings: Settings = None,
    max_new_tokens: NewTokens = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the most probable token.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from the most probable tokens of this mass.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from this many most probable tokens.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sample of the same prompt.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End the answers at this string; repeatable.")] = None,
    keep: Annotated[str, typer.Option(help="Keys of the input that the output repeats, separated by commas.")] = "",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Models side by side; if not given, one a GPU, or one on the CPU.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Lines that a worker decodes at once.", min=1)] = 32,
    address: Annotated[
        str, typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster to use; local starts one on this machine.")
    ] = "local",
    as_json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Answer every line of IN.jsonl with a line of OUT.jsonl, on Ray.

    A run that was stopped goes on with the same command. A line that cannot be answered has its error as its answer.
    """
    chosen = read_method(method, settings)

    from unmask.serve.batch import run
    from unmask.serve.lines import Job

    job = Job(
        model=model,
        method=chosen,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=tuple(stop or ()),
        keep=tuple(key for key in keep.split(",") if key),
    )
    began = time.perf_counter()
    with progress() as display:
        bar = display.add_task("lines")
        totals = run(
            job,
            source,
            output,
            device=device,
            workers=workers,
            batch=batch,
            address=address,
            report=lambda done, lines: display.update(bar, completed=done, total=lines),
        )
    seconds = time.perf_counter() - began
    if as_json:
        print(json.dumps({"output": str(output), **totals._asdict(), "seconds": seconds}))
    else:
        print(f"{output}: {totals.lines} lines, {totals.errors} of them errors")
