"""`unmask batch`: answer a dataset."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.choose import (
    Adapter,
    AddBos,
    Device,
    Dtype,
    Json,
    MethodName,
    Model,
    NewTokens,
    Seed,
    Settings,
    Stop,
    Temperature,
    Template,
    TopK,
    TopP,
    Weights,
    own_method,
    read_method,
)
from unmask.cli.console import progress
from unmask.cli.generate import read_schema


def command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN.jsonl",
            help='One request per line: {"prompt": "..."}, or "messages", or "token_ids"; optional are "id", "method", '
            '"max_new_tokens", "temperature", "top_p", "top_k", "seed", "stop", and "regex", "json_schema" or "choice".',
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="One line per request, in the same order.")],
    model: Model = "unmask-tiny",
    method: MethodName = None,
    settings: Settings = None,
    max_new_tokens: NewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = 0,
    stop: Stop = None,
    regex: Annotated[
        str | None, typer.Option(metavar="R", help="Every answer matches this regular expression, from beginning to end.")
    ] = None,
    json_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Every answer is JSON that the schema in this file validates.")
    ] = None,
    chat_template: Template = True,
    add_bos: AddBos = False,
    keep: Annotated[str, typer.Option(help="Keys of the input to copy to the output, separated by commas.")] = "",
    steps: Annotated[
        bool, typer.Option("--steps", help="Tell of each token its forward, its rule and its confidence, as `steps`.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Models that run in parallel; default: one per GPU, or one on the CPU.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Requests that a worker decodes at once.", min=1)] = 32,
    address: Annotated[
        str, typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster to use; local starts one on this machine.")
    ] = "local",
    as_json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    adapter: Adapter = None,
) -> None:
    """Answer every line of IN.jsonl with a line of OUT.jsonl, on Ray.

    The same command resumes a run that was stopped. A request that cannot be answered gets an error line.
    """
    chosen = read_method(method or own_method(model), settings)

    from unmask.serve.batch import run
    from unmask.serve.lines import Job

    job = Job(
        model=model,
        method=chosen,
        dtype=dtype,
        weights=weights,
        adapter=None if adapter is None else str(adapter),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=tuple(stop or ()),
        keep=tuple(key for key in keep.split(",") if key),
        steps=steps,
        regex=regex,
        json_schema=None if json_schema is None else read_schema(json_schema),
        chat_template=chat_template,
        add_bos=add_bos,
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
