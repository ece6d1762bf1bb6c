"""Weights in fewer bits: which tensors of a network, and how one of them is made, through torchao.

    int8    a scale per output; a product also takes its states to int8, with a scale per token
    int4    two numbers per byte; a scale and a zero point per output and group of 32 inputs
    fp8     e4m3, a scale per output

Only the matrices of the transformer's layers, experts included: embedding, head, norms and routers keep their type. In the
checkpoint form a quantised matrix is a parameter like the others, under its own name, whose tensor is torchao's.
"""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unmask.errors import ConfigError, ModelError, require, unknown
from unmask.models.experts import Experts
from unmask.models.network import Network

WEIGHTS = ("int8", "int4", "fp8")
GROUP = 32  # inputs that share a scale in int4: the finest that CPUs and GPUs have kernels for
ELEMENTS = 1 << 18  # of a matrix that are read and quantised at a time: what that takes besides stays at some megabytes

Parts = Mapping[str, Tensor]  # what a quantised tensor is made of: qdata, scale and, of int4, zero_point


def check(weights: str | None) -> None:
    """Raises ConfigError for an unknown kind, or where torchao is not installed."""
    if weights is None:
        return
    if weights not in WEIGHTS:
        raise unknown("kind of weights", weights, WEIGHTS)
    require(f"weights={weights!r}", "torchao", "quant")


@contextmanager
def _quiet() -> Iterator[None]:
    """No word of torchao's GPU libraries that this torch cannot load: none of them is used here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def torchao() -> Any:
    """The module of torchao's tensors, imported now. Raises ConfigError where it is not installed."""
    require("a checkpoint of quantised weights", "torchao", "quant")
    with _quiet():
        import torchao.core.config
        import torchao.prototype.safetensors.safetensors_support
        import torchao.quantization
    return torchao


def matrices(network: Network, weights: str) -> frozenset[str]:
    """The names of the parameters that are quantised.

    Raises ConfigError where the inputs of one of them are no whole groups of int4.

    >>> from unmask.models.toy import toy
    >>> sorted(name for name in matrices(toy("sdar").network, "int8") if ".0.self_attn." in name)[0]
    'model.layers.0.self_attn.k_proj.weight'
    """
    found: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, Experts):
            found |= {f"{name}.{leaf}": tensor for leaf, tensor in module.named_parameters(recurse=False)}
        elif isinstance(module, nn.Linear) and name.startswith(f"{network.names.layers}."):
            found[f"{name}.weight"] = module.weight
    if weights == "int4":
        for name, tensor in found.items():
            if tensor.shape[-1] % GROUP:
                raise ConfigError(
                    f"int4 weights are groups of {GROUP} inputs, and {name} has {tensor.shape[-1]}: use int8 or fp8"
                )
    return frozenset(found)


def quantise(tensor: Tensor, weights: str) -> Tensor:
    """A matrix [outputs, inputs], or a stack of them, as a tensor of torchao.

    >>> made = quantise(torch.tensor([[1.0, -2.0, 4.0, 0.0]]), "int8")
    >>> made.qdata.tolist(), made.dequantize().round(decimals=1).tolist()
    ([[32, -64, 127, 0]], [[1.0, -2.0, 4.0, 0.0]])
    """
    return assembled((tensor[rows] for rows in slices(tensor.shape)), tensor.shape, weights, tensor.device)


def slices(shape: Sequence[int]) -> list[slice]:
    """Along the first dimension, in parts of about ELEMENTS.

    >>> slices((5, 1 << 17))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, ELEMENTS // math.prod(shape[1:]))
    return [slice(begin, min(begin + step, shape[0])) for begin in range(0, shape[0], step)]


def assembled(pieces: Iterable[Tensor], shape: Sequence[int], weights: str, device: torch.device) -> Tensor:
    """A quantised matrix, or a stack of them, of what comes of `slices(shape)` one after the other.

    Rows are quantised each by itself, so that the result does not depend on how many come at a time.
    """
    torchao()
    make = {"int8": _int8, "int4": _int4, "fp8": _fp8}[weights]
    # There before the first piece is read, so that what a piece takes besides leaves no holes in memory.
    like = make(torch.empty(*shape[-2:], device="meta"))
    whole = {part: torch.empty(*shape[:-2], *one.shape, dtype=one.dtype, device=device) for part, one in like.items()}
    begin, dtype = 0, torch.float32
    for piece in pieces:
        for number, matrix in enumerate(piece if piece.dim() == 3 else [piece]):
            for part, some in make(matrix).items():
                if piece.dim() == 3:
                    whole[part][begin + number] = some
                else:
                    whole[part].narrow(_outputs(part, weights), begin, len(piece)).copy_(some)
        begin, dtype = begin + len(piece), piece.dtype
    return _wrapped(weights, whole, dtype)


def _outputs(part: str, weights: str) -> int:
    """The dimension of the outputs in one of the parts: of int4, scales lie the other way round."""
    return -1 if weights == "int4" and part != "qdata" else -2


def _int8(rows: Tensor) -> Parts:
    quantization = torchao().quantization
    made = quantization.Int8Tensor.from_hp(rows.float(), quantization.PerRow())
    return {"qdata": made.qdata, "scale": made.scale}


def _fp8(rows: Tensor) -> Parts:
    quantization = torchao().quantization
    made = quantization.Float8Tensor.from_hp(rows.float(), granularity=quantization.PerRow())
    return {"qdata": made.qdata, "scale": made.scale}


def _int4(rows: Tensor) -> Parts:
    """A group's numbers are q * scale + zero_point, q from -8 to 7, which reach from its least to its greatest.

    torchao itself makes this tensor of its own on GPUs alone.
    """
    grouped = torch.unflatten(rows.float(), 1, (-1, GROUP))
    least, greatest = grouped.aminmax(dim=-1)
    scale = ((greatest - least) / 15).clamp(min=1e-6).bfloat16()
    zero = (least + 8 * scale.float()).bfloat16()
    q = ((grouped - zero.float()[..., None]) / scale.float()[..., None]).round().clamp(-8, 7).to(torch.int8).flatten(1)
    qdata = (q[:, ::2] & 15) | (q[:, 1::2] << 4)
    return {"qdata": qdata, "scale": scale.t().contiguous(), "zero_point": zero.t().contiguous()}


def _wrapped(weights: str, parts: Parts, dtype: torch.dtype) -> Tensor:
    """A tensor of torchao of these parts, of a matrix or of a stack of them."""
    quantization, qdata = torchao().quantization, parts["qdata"]
    one = [1] * (qdata.dim() - 1)
    made: Tensor
    if weights == "int8":
        from torchao.quantization.quantize_.workflows import QuantizeTensorToInt8Kwargs

        states = QuantizeTensorToInt8Kwargs(granularity=quantization.PerRow())
        made = quantization.Int8Tensor(qdata, parts["scale"], [*one, qdata.shape[-1]], dtype, act_quant_kwargs=states)
    elif weights == "int4":
        shape = torch.Size([*qdata.shape[:-1], 2 * qdata.shape[-1]])
        made = quantization.Int4Tensor(qdata, parts["scale"], parts["zero_point"], [*one, GROUP], shape)
    else:
        made = quantization.Float8Tensor(qdata, parts["scale"], block_size=[*one, qdata.shape[-1]], dtype=dtype)
    return made


def parts_of(tensor: Tensor) -> Parts:
    """What a quantised tensor is made of."""
    held: Any = tensor
    found = {"qdata": held.qdata, "scale": held.scale}
    return found | {"zero_point": held.zero_point} if kind(tensor) == "int4" else found


def kind(tensor: Tensor) -> str | None:
    """Which of WEIGHTS a tensor is; None of a plain one.

    >>> kind(torch.zeros(2)), kind(quantise(torch.zeros(2, 4), "fp8"))
    (None, 'fp8')
    """
    named = {"Int8Tensor": "int8", "Int4Tensor": "int4", "Float8Tensor": "fp8"}
    return None if type(tensor) in (Tensor, nn.Parameter) else named.get(type(tensor).__name__)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Quantised matrices of one kind and as many inputs as one, their outputs one behind the other."""
    named, matrices = kind(tensors[0]), [parts_of(tensor) for tensor in tensors]
    assert named is not None
    parts = {part: torch.cat([matrix[part] for matrix in matrices], _outputs(part, named)) for part in matrices[0]}
    return _wrapped(named, parts, tensors[0].dtype)


def rows_of(tensor: Tensor, rows: slice) -> Tensor:
    """Some outputs of a quantised matrix, or of each of a stack, as a view."""
    named = kind(tensor)
    assert named is not None
    begin, end, _ = rows.indices(tensor.shape[-2])
    parts = {part: whole.narrow(_outputs(part, named), begin, end - begin) for part, whole in parts_of(tensor).items()}
    return _wrapped(named, parts, tensor.dtype)


def unstacked(tensor: Tensor) -> list[Tensor]:
    """The matrices of a stack, as views."""
    named, parts = kind(tensor), parts_of(tensor)
    assert named is not None
    return [
        _wrapped(named, {part: whole[number] for part, whole in parts.items()}, tensor.dtype) for number in range(len(tensor))
    ]


def room(like: Tensor, count: int) -> Tensor:
    """A stack of so many matrices like a quantised one, to be filled."""
    named = kind(like)
    assert named is not None
    return _wrapped(named, {part: one.new_empty(count, *one.shape) for part, one in parts_of(like).items()}, like.dtype)


def dequantise(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The plain numbers of a quantised matrix, or of a stack of them.

    >>> dequantise(quantise(torch.linspace(-8, 7, 32)[None], "int4"), torch.float32)[0, [0, 31]].tolist()
    [-8.0, 7.0]
    """
    parts, named = parts_of(tensor), kind(tensor)
    if named != "int4":
        return parts["qdata"].to(dtype) * parts["scale"].to(dtype)
    qdata = parts["qdata"]
    q = torch.unflatten(torch.stack(((qdata << 4) >> 4, qdata >> 4), dim=-1).flatten(-2), -1, (-1, GROUP))
    scale, zero = (parts[part].to(dtype).transpose(-1, -2)[..., None] for part in ("scale", "zero_point"))
    made: Tensor = (q.to(dtype) * scale + zero).flatten(-2)
    return made


def to_file(name: str, tensor: Tensor) -> tuple[dict[str, Tensor], str]:
    """What torchao writes of a tensor: its parts by their names in the file, and its line of the file's metadata."""
    parts, metadata = torchao().prototype.safetensors.safetensors_support.flatten_tensor_state_dict({name: tensor})
    return parts, metadata[name]


def settings(weights: str) -> dict[str, Any]:
    """The `quantization_config` of a config.json, as transformers writes it."""
    module = torchao()
    quantization = module.quantization
    made = {
        "int8": quantization.Int8DynamicActivationInt8WeightConfig,
        "int4": partial(quantization.Int4WeightOnlyConfig, group_size=GROUP),
        "fp8": quantization.Float8WeightOnlyConfig,
    }[weights]()
    described = module.core.config.config_to_dict(made)
    return {"quant_method": "torchao", "quant_type": {"default": described}, "modules_to_not_convert": None}


def from_file(name: str, stored: Mapping[str, Tensor], metadata: Mapping[str, str], shape: list[int]) -> Tensor:
    """A tensor that torchao wrote, of the parts in a file of safetensors and what its metadata says of it.

    Raises ModelError for another kind than ours, another shape, or metadata that is not there.
    """
    support = torchao().prototype.safetensors.safetensors_support
    if name not in metadata:
        raise ModelError(f"{name} is stored in parts, but the file does not say how: torchao's metadata is missing")
    known = {name: metadata[name], "tensor_names": json.dumps([name])}
    try:
        made, left = support.unflatten_tensor_state_dict(dict(stored), known)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{name}: torchao cannot read it ({str(error).splitlines()[0][:120]})") from None
    if left or name not in made:
        raise ModelError(f"{name}: some of its parts are missing: {', '.join(sorted(stored))} are there")
    tensor: Tensor = made[name]
    block = GROUP if kind(tensor) == "int4" else shape[-1]
    if kind(tensor) is None or list(tensor.block_size) != [*([1] * (len(shape) - 1)), block]:  # type: ignore[attr-defined]
        raise ModelError(f"{name} is a {type(tensor).__name__} of blocks that are not read here; read are {', '.join(WEIGHTS)}")
    if list(tensor.shape) != shape:
        raise ModelError(f"{name} has shape {list(tensor.shape)}, not {shape}")
    return tensor
