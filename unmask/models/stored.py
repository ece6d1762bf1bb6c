"""The tensors of a checkpoint's files, read one by one: safetensors or torch's own .bin, one file or an index of shards.

Bytes of safetensors are read, not mapped: memory holds what was asked for and nothing else of the files. A tensor may also
stand there in fewer bits: as fp8 with the scales of its blocks under NAME_scale_inv (DeepSeek-V3, arXiv 2412.19437, section
3.3.2), which is read as the product of both, or as torchao writes it (models/quantise.py).
"""

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unmask.errors import ModelError

SCALES = "_scale_inv"  # behind the name of a tensor of fp8: what its blocks are multiplied by
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")

PARTS = ("qdata", "scale", "zero_point")  # of a tensor as torchao writes it

Take = tuple[slice, ...]


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
    """Tensor name -> the file that holds it, from the index or from the one file; safetensors before .bin."""
    for index, single in zip(INDEXES, SINGLE, strict=True):
        if (folder / index).exists():
            weight_map = read_json(folder / index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise ModelError(f"{folder / index}: no weight_map")
            return {tensor: folder / str(file) for tensor, file in weight_map.items()}
        if (folder / single).exists():
            return dict.fromkeys(opened(folder / single).keys(), folder / single)
    if any(folder.glob("*.gguf")):
        raise ModelError(f"{folder} holds GGUF, which is llama.cpp's: take the checkpoint in safetensors that it was made of")
    raise ModelError(f"{folder}: neither model.safetensors nor model.safetensors.index.json is there, nor pytorch_model.bin")


class Opened(Protocol):
    """A file of tensors."""

    metadata: Mapping[str, str]

    def keys(self) -> list[str]: ...

    def shape(self, name: str) -> list[int]: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def read(self, name: str, take: Take) -> Tensor: ...


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self._file = _untyped(path)
        self.metadata: Mapping[str, str] = self._file.metadata() or {}

    def keys(self) -> list[str]:
        return list(self._file.keys())

    def shape(self, name: str) -> list[int]:
        return list(self._file.get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        part = self._file.get_slice(name)
        made: Tensor = part[:0] if part.get_shape() else self._file.get_tensor(name)
        return made.dtype

    def read(self, name: str, take: Take) -> Tensor:
        made: Tensor = self._file.get_slice(name)[take] if take else self._file.get_tensor(name)
        return made


def _untyped(path: Path) -> Any:
    return safe_open(path, framework="pt", backend="pread")


class _Pickled:
    """Tensors alone are read: whatever else a pickle would run is refused."""

    metadata: Mapping[str, str] = {}

    def __init__(self, path: Path) -> None:
        # Files from before torch 1.6 are no archives, and cannot be mapped.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
            raise ModelError(f"{path}: not a table of tensors by their names")
        self._tensors: Mapping[str, Tensor] = found

    def keys(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> list[int]:
        return list(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype

    def read(self, name: str, take: Take) -> Tensor:
        return self._tensors[name][take].clone()


def opened(path: Path) -> Opened:
    """A file of tensors, by its ending. Raises ModelError where it cannot be read."""
    try:
        return _Pickled(path) if path.suffix == ".bin" else _Safetensors(path)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file, though the index names it") from None
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path} holds more than tensors, and code of a checkpoint is never run: use its safetensors"
        ) from None
    except (SafetensorError, OSError, EOFError, RuntimeError) as error:
        kind = "PyTorch" if path.suffix == ".bin" else "safetensors"
        line = str(error).strip().splitlines()[0][:200]
        raise ModelError(f"{path}: not a readable {kind} file, perhaps cut short ({line})") from None


class Stored:
    """A checkpoint's tensors by their names. One file is open at a time: read them file by file (`path`)."""

    def __init__(self, folder: Path, block: Sequence[int] = (128, 128)) -> None:
        """`block`: rows and columns of a matrix of fp8 that share a scale."""
        self.folder, self._block = folder, block
        self._where = shards(folder)
        self._parts = _torchao_parts(self._where)
        beside = {stored for parts in self._parts.values() for stored in parts}
        beside |= {name for name in self._where if name.endswith(SCALES) and name.removesuffix(SCALES) in self._where}
        self._names = [*(name for name in self._where if name not in beside), *self._parts]
        self._path: Path | None = None
        self._file: Opened | None = None
        self._held: frozenset[str] = frozenset()  # names in the open file
        self._product: tuple[str, Tensor] | None = None  # the last matrix of fp8, which may be read row by row

    def __contains__(self, name: object) -> bool:
        return name in self._parts or (name in self._where and not str(name).endswith(SCALES))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    @property
    def files(self) -> list[str]:
        """The names in the files, those of scales and of parts included."""
        return list(self._where)

    def path(self, name: str) -> Path:
        """The file in which a tensor begins."""
        return self._where[self._parts[name][0] if name in self._parts else name]

    def quantised(self, name: str) -> bool:
        """Whether a tensor is stored as torchao writes it, so that it is read by its parts."""
        return name in self._parts

    def parts(self, name: str) -> tuple[dict[str, Tensor], Mapping[str, str]]:
        """The parts of such a tensor by their names in the file, and the metadata that stands with them."""
        found: dict[str, Tensor] = {}
        metadata: dict[str, str] = {}
        for stored in self._parts[name]:
            file = self._open(stored)
            found[stored] = file.read(stored, ())
            metadata.update(file.metadata)
        return found, metadata

    def shape(self, name: str) -> list[int]:
        """The shape of a tensor that is not stored in parts."""
        return self._open(name).shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """The type of a tensor that is not stored in parts, as it is read."""
        if f"{name}{SCALES}" in self._where:
            return torch.float32
        return self._open(name).dtype(name)

    def read(self, name: str, shape: Sequence[int], take: Take) -> Tensor:
        """Some of a tensor that is a matrix of numbers. Raises ModelError where its shape or its type is another."""
        file = self._open(name)
        if file.shape(name) != list(shape):
            raise ModelError(f"{self._where[name]}: {name} has shape {file.shape(name)}, not {list(shape)}")
        if f"{name}{SCALES}" in self._where:
            if self._product is None or self._product[0] != name:
                self._product = (name, self._scaled(name, shape))
            return self._product[1][take]
        tensor = file.read(name, take)
        if not tensor.is_floating_point() or tensor.dtype.itemsize == 1:
            stored = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"{self._where[name]}: {name} is {stored} without the scales that belong to it, quantised in a way that is not "
                "read here: take the checkpoint that it was made of"
            )
        return tensor

    def _scaled(self, name: str, shape: Sequence[int]) -> Tensor:
        """A matrix of fp8 in float32: each block by its own number, or all by one."""
        scale = self._open(f"{name}{SCALES}").read(f"{name}{SCALES}", ()).float()
        tensor = self._open(name).read(name, ()).float()
        if scale.numel() == 1:
            return tensor.mul_(scale)
        sizes = [1] * (len(shape) - 2) + list(self._block)
        expected = [-(-length // size) for length, size in zip(shape, sizes, strict=True)]
        if list(scale.shape) != expected:
            raise ModelError(
                f"{self._where[name]}: {name}{SCALES} has shape {list(scale.shape)}, not {expected}: blocks are of {sizes}"
            )
        for dimension, (length, size) in enumerate(zip(shape, sizes, strict=True)):
            scale = scale.repeat_interleave(size, dim=dimension).narrow(dimension, 0, length)
        return tensor.mul_(scale)

    def _open(self, name: str) -> Opened:
        path = self._where[name]
        if self._file is None or self._path != path:
            self._file, self._path = None, path  # the one before is closed first
            self._file = opened(path)
            self._held = frozenset(self._file.keys())
        if name not in self._held:
            raise ModelError(f"{path}: the tensor {name} is missing, though the index places it there")
        return self._file


def _torchao_parts(names: Mapping[str, Path]) -> dict[str, list[str]]:
    """Tensors that are stored in parts, OWNER._LEAF_PART of a tensor OWNER.LEAF: its name -> the names of its parts.

    >>> _torchao_parts({"up._weight_qdata": Path(), "up._weight_scale": Path(), "up.bias": Path()})
    {'up.weight': ['up._weight_qdata', 'up._weight_scale']}
    """
    found: dict[str, list[str]] = {}
    for stored in names:
        if stored.endswith(f"_{PARTS[0]}"):
            base = stored.removesuffix(PARTS[0])
            owner, _, leaf = base.removesuffix("_").rpartition("._")
            found[f"{owner}.{leaf}"] = [f"{base}{part}" for part in PARTS if f"{base}{part}" in names]
    return found
