"""Checkpoints whose weights are quantised already: which kind it is, and what to do about those that are not read here."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unmask.errors import ModelError

# What config.json calls a kind -> what people call it.
KINDS: Mapping[str, str] = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fbgemm_fp8": "fp8 of FBGEMM",
    "gguf": "GGUF",
    "hqq": "HQQ",
    "mxfp4": "MXFP4",
    "nvfp4": "NVFP4",
    "quanto": "Quanto",
    "auto-round": "AutoRound",
    "modelopt": "NVIDIA ModelOpt",
}
READ = ("torchao", "fp8")  # fp8: with the scales of blocks beside it
# The kind that the name of a tensor gives away, where no config says it.
TRACES: Mapping[str, str] = {
    ".g_idx": "gptq",
    ".qzeros": "awq",  # GPTQ has these too, and the ones above
    ".absmax": "bitsandbytes",
    ".SCB": "bitsandbytes",
    ".weight_packed": "compressed-tensors",
}
OLD = ("quantize_config.json", "quant_config.json")  # of AutoGPTQ and AutoAWQ, beside a config.json that says nothing


def check(config: Mapping[str, Any], names: Iterable[str], folder: Path) -> None:
    """Raises ModelError, which names the kind and what to do, for weights that are quantised and not read here.

    Args:
        config: config.json.
        names: of the tensors.
        folder: of the checkpoint.

    >>> check({"quantization_config": {"quant_method": "gptq", "bits": 4}}, [], Path("m"))
    Traceback (most recent call last):
        ...
    unmask.errors.ModelError: m: the weights are quantised as GPTQ (4 bits), which is not read here: take the checkpoint
    that it was made of and load it with weights="int8" or "int4"
    """
    said = config.get("quantization_config") or config.get("compression_config")
    if said is not None and not isinstance(said, dict):
        raise ModelError(f"{folder / 'config.json'}: quantization_config must be an object, got {said!r:.60}")
    kind = _named(said) if said else _traced(names, folder)
    if kind is None or kind in READ:
        return
    bits = (said or {}).get("bits") or (said or {}).get("w_bit") or (4 if (said or {}).get("load_in_4bit") else None)
    detail = f" ({bits} bits)" if bits else ""
    raise ModelError(
        f"{folder}: the weights are quantised as {KINDS.get(kind, kind)}{detail}, which is not read here: take the checkpoint "
        'that it was made of and load it with weights="int8" or "int4"'
    )


def block(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of a matrix of fp8 that share a scale.

    >>> block({"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 32]}}), block({})
    ((64, 32), (128, 128))
    """
    said = config.get("quantization_config")
    rows, columns = (said.get("weight_block_size") if isinstance(said, dict) else None) or (128, 128)
    return int(rows), int(columns)


def _named(said: Mapping[str, Any]) -> str:
    method = said.get("quant_method")
    if method is None:
        method = "bitsandbytes" if said.get("load_in_8bit") or said.get("load_in_4bit") else "an unnamed kind"
    return str(method).lower()


def _traced(names: Iterable[str], folder: Path) -> str | None:
    found = tuple(names)
    for ending, kind in TRACES.items():
        if any(name.endswith(ending) for name in found):
            return kind
    return "gptq" if any((folder / name).exists() for name in OLD) else None
