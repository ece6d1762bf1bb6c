"""Tensors from safetensors files into a network: one file, or an index of shards.

Tensors, or a process's slices of them, go to their place one by one, so the peak is what is kept plus what one file maps.
Most parameters are one tensor of the checkpoint under the same name; experts are many, joined here.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from unmask.errors import ModelError
from unmask.models.layout import Layout, Piece, layouts
from unmask.models.network import Network


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; a checkpoint folder needs config.json and *.safetensors") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return data


def shards(folder: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it, from the index or from the one file."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError(f"{index}: no weight_map")
        return {tensor: folder / str(file) for tensor, file in weight_map.items()}
    single = folder / "model.safetensors"
    if not single.exists():
        raise ModelError(f"{folder}: neither model.safetensors nor model.safetensors.index.json is there")
    with _opened(single) as file:
        return dict.fromkeys(file.keys(), single)


def fill(network: Network, folder: Path, *, device: torch.device, dtype: torch.dtype | None) -> None:
    """Put the checkpoint's tensors into a network built on the meta device. `dtype` None takes the embedding's for all.

    Tensors that the network does not have are left out if another name ties them in, else refused.
    """
    where = shards(folder)
    chosen = {name: _choose(layouts(network, name), where) for name, _ in network.named_parameters()}
    _check(network, folder, where, chosen)
    first = next(iter(chosen.values()))[0].source  # the embedding's
    for path in sorted(set(where.values()), key=lambda path: (path != where[first], path)):
        with _opened(path) as file:
            held = set(file.keys())
            for name, pieces in chosen.items():
                for piece in pieces:
                    if where[piece.source] == path:
                        tensor = _read(file, path, held, piece)
                        dtype = dtype or tensor.dtype
                        _place(network, name, piece, tensor, device, dtype)


def _choose(known: Sequence[Layout], where: Mapping[str, Path]) -> Layout:
    """The first layout that the checkpoint has all tensors of; the first of all if it has none whole."""
    return next((pieces for pieces in known if all(piece.source in where for piece in pieces)), known[0])


def _check(network: Network, folder: Path, where: Mapping[str, Path], chosen: Mapping[str, Layout]) -> None:
    """Raises ModelError for tensors that are missing or have no place."""
    needed = {piece.source for pieces in chosen.values() for piece in pieces}
    absent = sorted(needed - set(where))
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ModelError(f"{folder}: the tensor {absent[0]}{more} is missing from the checkpoint")
    tied = {f"{network.names.head}.weight"} if network.shape.tied else set()
    spare = sorted(name for name in set(where) - needed - tied if not name.endswith("rotary_emb.inv_freq"))
    if spare:
        raise ModelError(f"{where[spare[0]]}: the tensor {spare[0]} has no place in {type(network).__name__}")


def _read(file: Any, path: Path, held: set[str], piece: Piece) -> torch.Tensor:
    """What a piece takes of its tensor. Raises ModelError where that is not what the network expects."""
    if piece.source not in held:
        raise ModelError(f"{path}: the tensor {piece.source} is missing, though the index places it there")
    stored = file.get_slice(piece.source)
    if stored.get_shape() != piece.shape:
        raise ModelError(f"{path}: {piece.source} has shape {stored.get_shape()}, not {piece.shape}")
    tensor: torch.Tensor = stored[piece.take]
    if not tensor.is_floating_point():
        raise ModelError(
            f"{path}: {piece.source} is {tensor.dtype}, not a floating-point type; quantised weights are not supported"
        )
    return tensor


def _place(network: Network, name: str, piece: Piece, tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> None:
    """A copy, not the file's own pages: the file may change or go away."""
    owner, _, leaf = name.rpartition(".")
    module = network.get_submodule(owner)
    held: torch.Tensor = getattr(module, leaf)
    if leaf in getattr(module, "kept", ()):
        dtype = torch.promote_types(dtype, torch.float32)
    if piece.put is None:
        setattr(module, leaf, nn.Parameter(tensor.to(device=device, dtype=dtype, copy=True), requires_grad=False))
        return
    if held.is_meta:
        held = nn.Parameter(torch.empty(held.shape, device=device, dtype=dtype), requires_grad=False)
        setattr(module, leaf, held)
    held.data[piece.put] = tensor.to(device=device, dtype=dtype)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file, though the index names it") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file, perhaps cut short ({error})") from None
