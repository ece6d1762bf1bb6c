"""A checkpoint's tensors into a network: read, adapted, converted and quantised one by one.

Tensors, or a process's slices of them, go to their place one after the other, so the peak is what is kept plus one tensor.
Most parameters are one tensor of the checkpoint under the same name; experts are many, joined here.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from unmask.errors import ConfigError, ModelError
from unmask.models import formats, quantise
from unmask.models.layout import Layout, Piece, layouts
from unmask.models.lora import Adapter
from unmask.models.network import Network
from unmask.models.stored import Stored


def fill(
    network: Network,
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    weights: str | None = None,
    adapter: Adapter | None = None,
) -> None:
    """Put the checkpoint's tensors into a network built on the meta device.

    Tensors that the network does not have are left out if another name ties them in, else refused.

    Args:
        network: what is filled; where its weights are quantised, it says so (`network.weights`).
        folder: of the checkpoint.
        device: where the tensors are kept.
        dtype: of all that is not quantised; None takes the embedding's.
        weights: what the layers' matrices are quantised to; None: as the checkpoint has them.
        adapter: what is merged into the tensors, in the checkpoint's type and before they are quantised.
    """
    stored = Stored(folder, formats.block(network.config))
    formats.check(network.config, stored.files, folder)
    fill_from(network, stored, device=device, dtype=dtype, weights=weights, adapter=adapter)


def fill_from(
    network: Network,
    stored: Stored,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    weights: str | None = None,
    adapter: Adapter | None = None,
) -> None:
    """`fill` of what need not be files: tensors by their names, each read when its turn comes."""
    folder = stored.folder
    chosen = {name: _choose(layouts(network, name), stored) for name, _ in network.named_parameters()}
    _check(network, folder, stored, chosen)
    quantised = any(stored.quantised(source) for source in stored)
    if quantised and (weights or adapter or network.share.processes > 1):
        raise ConfigError(_already(folder, weights, adapter))
    matrices = quantise.matrices(network, weights) if weights else frozenset()
    if adapter is not None:
        adapter.require_places(stored)
    for name, piece in _file_by_file(chosen, stored):
        if stored.quantised(piece.source):
            _place(network, name, piece, _from_parts(stored, piece, device))
            continue
        if dtype is None:
            dtype = suited(stored.dtype(piece.source), device)
        read = partial(_read, stored, piece, adapter, device, _kept(network, name, dtype))
        if weights is not None and name in matrices:
            tensor = quantise.assembled(map(read, quantise.slices(_shape(piece))), _shape(piece), weights, device)
        else:
            tensor = read(slice(None))
        _place(network, name, piece, tensor)
    network.weights = next(filter(None, (quantise.kind(tensor) for tensor in network.parameters())), None)


def _read(
    stored: Stored, piece: Piece, adapter: Adapter | None, device: torch.device, dtype: torch.dtype, rows: slice
) -> Tensor:
    """Some rows of what a piece takes, with what an adapter adds to them."""
    first, *others = piece.take
    begin = first.start or 0
    whole = rows == slice(None)
    take = piece.take if whole else (slice(begin + rows.start, begin + rows.stop), *others)
    tensor = stored.read(piece.source, piece.shape, take)
    if adapter is not None:
        tensor = adapter.merged(piece.source, tensor, take)
    return tensor.to(device=device, dtype=dtype)


def _shape(piece: Piece) -> list[int]:
    """The shape of what a piece takes."""
    return [len(range(length)[part]) for length, part in zip(piece.shape, piece.take, strict=True)]


def suited(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The type in which a device computes with a checkpoint of this one: float16 where a GPU has no bfloat16.

    >>> suited(torch.bfloat16, torch.device("cpu"))
    torch.bfloat16
    """
    if dtype != torch.bfloat16 or device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0):
        return dtype
    warnings.warn(
        f"{device} has no bfloat16: the weights become float16, whose largest number is 65504; "
        'dtype="float32" takes twice the memory and has no such limit',
        stacklevel=2,
    )
    return torch.float16


def _file_by_file(chosen: Mapping[str, Layout], stored: Stored) -> list[tuple[str, Piece]]:
    """Parameters and their pieces in the order in which they are read: the embedding's file first, which tells the type."""
    pieces = [(name, piece) for name, own in chosen.items() for piece in own]
    first = stored.path(pieces[0][1].source)
    return sorted(pieces, key=lambda one: (stored.path(one[1].source) != first, stored.path(one[1].source)))


def _choose(known: Sequence[Layout], stored: Stored) -> Layout:
    """The first layout that the checkpoint has all tensors of; the first of all if it has none whole."""
    return next((pieces for pieces in known if all(piece.source in stored for piece in pieces)), known[0])


def _check(network: Network, folder: Path, stored: Stored, chosen: Mapping[str, Layout]) -> None:
    """Raises ModelError for tensors that are missing or have no place."""
    needed = {piece.source for pieces in chosen.values() for piece in pieces}
    absent = sorted(source for source in needed if source not in stored)
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ModelError(f"{folder}: the tensor {absent[0]}{more} is missing from the checkpoint")
    tied = {f"{network.names.head}.weight"} if network.shape.tied else set()
    spare = sorted(name for name in set(stored) - needed - tied if not name.endswith("rotary_emb.inv_freq"))
    if spare:
        raise ModelError(f"{stored.path(spare[0])}: the tensor {spare[0]} has no place in {type(network).__name__}")


def _already(folder: Path, weights: str | None, adapter: Adapter | None) -> str:
    """Why a checkpoint of quantised weights is not taken."""
    if adapter is not None:
        return (
            f"{adapter.folder} cannot be merged into {folder}, whose weights are quantised already: "
            "name the model that it was made of"
        )
    if weights is not None:
        return (
            f"the weights of {folder} are quantised already: load it without weights={weights!r}, "
            "or the model that it was made of"
        )
    return f"the weights of {folder} are quantised, and tensor_parallel shares plain ones: load the model that it was made of"


def _from_parts(stored: Stored, piece: Piece, device: torch.device) -> Tensor:
    parts, metadata = stored.parts(piece.source)
    try:
        tensor = quantise.from_file(piece.source, parts, metadata, piece.shape)
        return (tensor if piece.take[-2] == slice(None) else quantise.rows_of(tensor, piece.take[-2])).to(device)
    except ModelError as error:
        raise ModelError(f"{stored.path(piece.source)}: {error}") from None


def _kept(network: Network, name: str, dtype: torch.dtype) -> torch.dtype:
    """The type of a parameter: of all alike, but for those that their module keeps in fp32 or better."""
    owner, _, leaf = name.rpartition(".")
    wide = leaf in getattr(network.get_submodule(owner), "kept", ())
    return torch.promote_types(dtype, torch.float32) if wide else dtype


def _place(network: Network, name: str, piece: Piece, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    module = network.get_submodule(owner)
    held: Tensor = getattr(module, leaf)
    if piece.put is None:
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))
        return
    if quantise.kind(tensor) is not None:
        if held.is_meta:
            held = nn.Parameter(quantise.room(tensor, len(held)), requires_grad=False)
            setattr(module, leaf, held)
        for part, whole in quantise.parts_of(held).items():
            whole[piece.put] = quantise.parts_of(tensor)[part]
        return
    if held.is_meta:
        held = nn.Parameter(torch.empty(held.shape, device=tensor.device, dtype=tensor.dtype), requires_grad=False)
        setattr(module, leaf, held)
    held.data[piece.put] = tensor
