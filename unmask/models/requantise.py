"""A checkpoint of quantised weights made of a plain one: its names, unmerged, in torchao's format, file by file.

Tensors are read, quantised and written one after the other; memory holds one file of the result, of at most SHARD bytes.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from unmask.errors import ConfigError
from unmask.files import sync
from unmask.models import commit_head, formats, lora, quantise
from unmask.models.layout import layouts
from unmask.models.loading import build, fingerprint, folders, read_json
from unmask.models.network import Network
from unmask.models.stored import Stored

SHARD = 2 << 30  # bytes of a file
ELSEWHERE = {
    "int8": "transformers reads it too, where torchao is installed",
    "fp8": "transformers reads it too, where torchao is installed",
    "int4": "transformers reads it only on a GPU and with the package mslk, whose products torchao uses for int4",
}
EXPERTS = "transformers does not read it: its reader of torchao's files joins no experts"
COPIED = (".json", ".txt", ".model", ".jinja", ".md")


class Made(NamedTuple):
    """What was written: its bytes, those of the plain weights, and who else reads it."""

    bytes: int
    bytes_before: int
    elsewhere: str


def quantise_folder(name: str, output: Path, weights: str, *, adapter: str | Path | None = None) -> Made:
    """Write a model's checkpoint with quantised weights to a new folder, which appears when it is whole.

    Args:
        name, adapter: as of `load`.
        output: a folder that is not there yet, or is empty.
        weights: "int8", "int4" or "fp8".

    Raises:
        ConfigError: the folder is taken, or the weights are quantised already.
        ModelError: as of `load`.
    """
    quantise.check(weights)
    folder, change = folders(name, adapter)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} is there already: name a new folder")
    config = read_json(folder / "config.json")
    network, stored = build(config, folder), Stored(folder, formats.block(config))
    formats.check(config, stored.files, folder)
    if any(stored.quantised(source) for source in stored):
        raise ConfigError(f"the weights of {folder} are quantised already: name the checkpoint that it was made of")
    merged = None if change is None else lora.Adapter(change)
    if merged is not None:
        merged.require_places(stored)
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was stopped
    partial.mkdir(parents=True)
    try:
        size = _write(_entries(network, stored, weights), stored, merged, weights, partial)
        _write_rest(folder, partial, network, weights, merged=merged is not None)
        if output.exists():
            output.rmdir()
        partial.rename(output)
        sync(output.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    before = sum(path.stat().st_size for path in {stored.path(source) for source in stored})
    return Made(size, before, EXPERTS if network.shape.moe else ELSEWHERE[weights])


class Entry(NamedTuple):
    """A tensor of the result, before it is read: its line of the metadata, and the bytes of its parts by their names."""

    source: str
    shape: list[int]
    quantised: bool
    metadata: str
    parts: dict[str, int]


def _entries(network: Network, stored: Stored, weights: str) -> list[Entry]:
    """What is written, file by file of the checkpoint; quantised is what belongs to a matrix of a layer."""
    matrices = quantise.matrices(network, weights)
    inside = {piece.source for name in matrices for layout in layouts(network, name) for piece in layout}
    made = []
    for source in sorted(stored, key=lambda source: (stored.path(source), source)):
        shape, dtype = stored.shape(source), stored.dtype(source)
        empty = torch.empty(shape, dtype=dtype, device="meta")
        tensor = quantise.quantise(empty, weights) if source in inside else empty
        parts, metadata = quantise.to_file(source, tensor)
        made.append(Entry(source, shape, source in inside, metadata, {name: part.nbytes for name, part in parts.items()}))
    return made


def _write(entries: list[Entry], stored: Stored, adapter: lora.Adapter | None, weights: str, folder: Path) -> int:
    """Write the files of the result and their index; returns the bytes of all tensors."""
    files: list[list[Entry]] = [[]]
    for entry in entries:
        if files[-1] and sum(sum(held.parts.values()) for held in (*files[-1], entry)) > SHARD:
            files.append([])
        files[-1].append(entry)
    # The whole metadata in every file: transformers keeps the last one's list of names.
    metadata = {entry.source: entry.metadata for entry in entries}
    metadata |= {"format": "pt", "tensor_names": json.dumps(list(metadata))}
    where: dict[str, str] = {}
    for number, held in enumerate(files, start=1):
        name = "model.safetensors" if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        tensors: dict[str, Tensor] = {}
        for entry in held:
            tensors |= quantise.to_file(entry.source, _read(entry, stored, adapter, weights))[0]
        save_file(tensors, folder / name, metadata=metadata)
        sync(folder / name)
        where |= dict.fromkeys(tensors, name)
    size = sum(sum(entry.parts.values()) for entry in entries)
    if len(files) > 1:
        index = json.dumps({"metadata": {"total_size": size}, "weight_map": where}, indent=1)
        (folder / "model.safetensors.index.json").write_text(index + "\n")
    return size


def _read(entry: Entry, stored: Stored, adapter: lora.Adapter | None, weights: str) -> Tensor:
    def rows(part: slice) -> Tensor:
        take = (part, *([slice(None)] * (len(entry.shape) - 1)))
        tensor = stored.read(entry.source, entry.shape, take)
        return tensor if adapter is None else adapter.merged(entry.source, tensor, take)

    if entry.quantised:
        return quantise.assembled(map(rows, quantise.slices(entry.shape)), entry.shape, weights, torch.device("cpu"))
    return rows(slice(None)).contiguous()


def _write_rest(source: Path, folder: Path, network: Network, weights: str, *, merged: bool) -> None:
    """The config, which says how the weights are quantised, and everything beside weights and config as it is."""
    config = read_json(source / "config.json")
    kept = {key: value for key, value in config.items() if key not in ("quantization_config", "compression_config")}
    (folder / "config.json").write_text(json.dumps(kept | {"quantization_config": quantise.settings(weights)}, indent=1) + "\n")
    for path in source.iterdir():
        if path.suffix in COPIED and path.name != "config.json" and not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)
    head = None if merged else commit_head.read(source, fingerprint(source), width=network.shape.width)
    if head is not None:  # it says itself which weights it is for: from now on these
        commit_head.write(replace(head, fingerprint=fingerprint(folder)), folder / commit_head.FILE)
    for path in folder.iterdir():
        sync(path)
