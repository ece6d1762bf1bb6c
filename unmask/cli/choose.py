"""Shared by several commands: the options that pick a model and a method, and reading a method."""

import functools
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.errors import ConfigError, unknown

if TYPE_CHECKING:
    from unmask.engine.request import Completion
    from unmask.methods.method import Method
    from unmask.models.denoiser import Denoiser

METHODS = "vanilla,fast-dllm,streaming-dllm,r2-dllm,freedave"  # the default of `compare` and `eval`

Model = Annotated[
    str,
    typer.Option(
        help="An embedded model, a checkpoint folder, a short name (`unmask models` lists them) or a Hugging Face id."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or float64.")]
Weights = Annotated[
    str | None, typer.Option(help="Quantise the layers' matrices while they are read: int8, int4 or fp8. Default: as they are.")
]
Adapter = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="A folder of LoRA as peft saves it, merged into the model.")
]
KvDtype = Annotated[str | None, typer.Option(help="fp8 keeps keys and values in 8 bits; default: in the type of the weights.")]
TensorParallel = Annotated[bool, typer.Option("--tensor-parallel", help="Share the model between torchrun's processes.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting of the method (`unmask methods NAME` lists them); repeatable."
    ),
]
MethodName = Annotated[
    str | None,
    typer.Option(
        help="A preset (`unmask methods` lists them), a settings file, or package.module:function, which returns a method; "
        "default: the model's own, or r2-dllm."
    ),
]
Temperature = Annotated[float | None, typer.Option(help="0 takes the most probable token.")]
TopP = Annotated[float | None, typer.Option(help="Sample from the most probable tokens of this mass.")]
TopK = Annotated[int | None, typer.Option(help="Sample from this many most probable tokens.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same sample of the same prompt.")]
Stop = Annotated[list[str] | None, typer.Option(help="End the answer at this string; repeatable.")]
NewTokens = Annotated[int | None, typer.Option(help="Length of the answer in tokens; default: the model's own, or 128.")]
Template = Annotated[
    bool,
    typer.Option(
        "--chat-template/--no-chat-template", help="Put the model's chat template around a text; a base model is asked without."
    ),
]
AddBos = Annotated[
    bool, typer.Option("--add-bos/--no-add-bos", help="Begin every prompt with the BOS token, as papers ask base models.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document as the last line.")]


@contextmanager
def loaded(
    model: str,
    *,
    device: str,
    dtype: str,
    weights: str | None,
    adapter: Path | None,
    tensor_parallel: bool,
    graphs: bool = True,
    kv_dtype: str | None = None,
    chat_template: bool = True,
    add_bos: bool = False,
) -> Iterator["Denoiser"]:
    """Load the model, whole or shared by torchrun's processes: only the first of them gets it, the others follow and exit."""
    import unmask

    load = functools.partial(
        unmask.load,
        model,
        dtype=dtype,
        weights=weights,
        adapter=adapter,
        kv_dtype=kv_dtype,
        chat_template=chat_template,
        add_bos=add_bos,
    )
    if not tensor_parallel:
        yield load(device=device, graphs=graphs)
        return

    import torch

    from unmask.models.follow import follow, lead

    shared = load(device=_joined(device), tensor_parallel=True)
    # On an error the group stays open: closing it would wait for the other processes, which the launcher ends anyway.
    if torch.distributed.get_rank() != 0:
        follow(shared)
        torch.distributed.destroy_process_group()
        raise typer.Exit
    with lead(shared) as leading:
        yield leading
    torch.distributed.destroy_process_group()


def _joined(device: str) -> str:
    """Join torchrun's process group; returns the device of this process."""
    import torch

    local = os.environ.get("LOCAL_RANK")
    if local is None:
        raise ConfigError(
            "--tensor-parallel shares the model between processes: torchrun --nproc_per_node 2 -m unmask ... --tensor-parallel"
        )
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {device}: with --tensor-parallel every process takes its own GPU; use auto, cuda or cpu")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        torch.distributed.init_process_group("gloo")
        return "cpu"
    if int(local) >= torch.cuda.device_count():
        raise ConfigError(f"process {local} has no GPU: there are {torch.cuda.device_count()}; start as many processes")
    torch.cuda.set_device(int(local))
    torch.distributed.init_process_group("nccl")
    return f"cuda:{local}"


def read_settings(pairs: list[str] | None) -> dict[str, Any]:
    """`key=value` pairs; values are YAML, so 0.9 is a number and null is None.

    >>> read_settings(["threshold=0.8", "cache=prefix"])
    {'threshold': 0.8, 'cache': 'prefix'}
    """
    chosen: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair}: write it as key=value")
        chosen[key.replace("-", "_")] = _value(pair, value)
    return chosen


def _value(pair: str, text: str) -> Any:
    import yaml

    try:
        # YAML reads 1e-1 as a word.
        return float(text) if re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", text) else yaml.safe_load(text)
    except ValueError:
        return text
    except yaml.YAMLError:
        raise ConfigError(f"--set {pair}: the value is not valid YAML") from None


def own_method(model: str) -> str:
    """The preset that decodes with this model where none is named, read before the model is loaded."""
    from unmask.engine.own import default_method_of

    return default_method_of(model)


def own_values(asked: "Method", used: "Method") -> str:
    """What the model's own values have changed in a method, in words; nothing where they have changed nothing."""
    from unmask.methods.settings import differences

    changed = [f"{path}={value}" for path, value in differences(asked.to_dict(), used.to_dict()).items()]
    return f"; the model's own: {', '.join(changed)}" if changed else ""


def spent(completion: "Completion") -> str:
    """What an answer has cost, in words."""
    return (
        f"{completion.tokens} tokens, {completion.forwards} forwards, "
        f"{completion.tokens_per_forward:.2f} tokens per forward, {completion.seconds:.2f} s"
    )


def fields(completion: "Completion") -> dict[str, Any]:
    """What `--json` says of any answer."""
    return {
        "text": completion.text,
        "token_ids": completion.token_ids,
        "tokens": completion.tokens,
        "forwards": completion.forwards,
        "tokens_per_forward": completion.tokens_per_forward,
        "seconds": completion.seconds,
        "finish_reason": completion.finish_reason,
    }


def read_method(name: str, pairs: list[str] | None = None) -> "Method":
    """A preset, a settings file or `package.module:function` with settings changed: `threshold=0.8`, `commit.threshold=0.8`."""
    from unmask.methods import load

    return load(name, **read_settings(pairs))


def read_methods(names: str) -> dict[str, "Method"]:
    """Methods as `read_method` takes them, separated by commas, by the names they were given."""
    chosen = {name: read_method(name) for name in names.split(",") if name}
    if not chosen:
        raise ConfigError("--methods names no method: write for example vanilla,r2-dllm")
    return chosen


def read_sweep(names: str, sweep: list[str] | None) -> dict[str, "Method"]:
    """Methods as `read_method` takes them, each with every combination of the values of the `KEY=A,B,C` options that it has.

    A preset without any of these options is run once, unchanged, so that a baseline can be part of a sweep. The values
    `grid` are those of a comparable AUP (evals/aup.py).

    >>> list(read_sweep("vanilla,r2-dllm", ["threshold=0.8,0.9"]))
    ['vanilla', 'r2-dllm threshold=0.8', 'r2-dllm threshold=0.9']
    """
    from unmask.methods.options import options, takes
    from unmask.methods.settings import ENDINGS

    axes = [axis.partition("=")[::2] for axis in sweep or []]
    plain = read_methods(names)
    presets = [name for name in plain if Path(name).suffix not in ENDINGS]
    known = {name: [axis for axis, _ in axes if name not in presets or takes(name, axis)] for name in plain}
    for axis, values in axes:
        if not values:
            raise ConfigError(f"--sweep {axis}: write it as key=first,second")
        if not any(axis in own for own in known.values()):
            raise unknown(f"option of {', '.join(plain)}", axis, {option for name in presets for option in options(name)})
    found: dict[str, Method] = {}
    for name in plain:
        mine = [[f"{axis}={value}" for value in _values(values)] for axis, values in axes if axis in known[name]]
        for pairs in itertools.product(*mine):
            found[" ".join([name, *pairs])] = read_method(name, list(pairs))
    return found


def _values(text: str) -> list[str]:
    from unmask.evals.aup import GRID

    return [f"{value:g}" for value in GRID] if text == "grid" else text.split(",")
