"""`unmask quantize`: a checkpoint's weights in fewer bits, once, as a checkpoint of its own."""

import json
from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.choose import Adapter, Json


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, an embedded model or a Hugging Face id.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The new folder.")],
    weights: Annotated[str, typer.Option(help="int8, int4 or fp8.")],
    adapter: Adapter = None,
    as_json: Json = False,
) -> None:
    """Write MODEL's checkpoint to OUT with its layers' matrices quantised, as `--weights` does at every load.

    The names are the checkpoint's, the files safetensors; `--model OUT` reads them. A run that was stopped begins anew.
    """
    from unmask.models.requantise import quantise_folder

    made = quantise_folder(model, output, weights, adapter=adapter)
    if as_json:
        print(json.dumps({"output": str(output), "weights": weights, **made._asdict()}))
        return
    print(f"{output}: {made.bytes / 1e9:.2f} GB in place of {made.bytes_before / 1e9:.2f}; {made.elsewhere}")
