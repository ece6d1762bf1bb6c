"""Low-rank adapters in peft's files (LoRA, arXiv 2106.09685), merged into a checkpoint's tensors while they are read.

    W + s B A                       s = alpha / r, or alpha / sqrt(r) where the adapter says use_rslora (arXiv 2312.03732)
    m (W + s B A) / |W + s B A|     DoRA (arXiv 2402.09353): the norm of every output's row, m trained

Biases and whole modules that were trained beside them take the place of the checkpoint's.
"""

import math
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.errors import ModelError
from unmask.models.stored import Take, opened, read_json

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
A, B, M = "lora_A", "lora_B", "lora_magnitude_vector"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / CONFIG).exists() and not (folder / "config.json").exists()


class Adapter:
    """The adapter of a folder: what it adds to which tensors of the checkpoint."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelError where its files cannot be read or it is of a kind that is not LoRA."""
        self.folder = folder
        self._config = read_json(folder / CONFIG)
        kind = self._config.get("peft_type")
        if kind != "LORA" or self._config.get("fan_in_fan_out") or self._config.get("layer_replication"):
            raise ModelError(f"{folder / CONFIG}: an adapter of kind {kind} is not read here, only LoRA of plain matrices")
        path = next((folder / name for name in FILES if (folder / name).exists()), None)
        if path is None:
            raise ModelError(f"{folder}: adapter_config.json is there, but neither of {' and '.join(FILES)}")
        file = opened(path)
        self._low: dict[str, dict[str, Tensor]] = {}  # module -> A, B and the magnitudes
        self._whole: dict[str, Tensor] = {}
        for stored in file.keys():  # noqa: SIM118 - not a dictionary
            name = stored.removeprefix("base_model.model.")
            module, _, ending = name.removesuffix(".weight").rpartition(".")
            if ending in (A, B, M):
                self._low.setdefault(module, {})[ending] = file.read(stored, ()).float()
            elif "lora_" in name or name == stored:
                raise ModelError(f"{path}: the tensor {stored} is no part of a LoRA of plain matrices")
            else:
                self._whole[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = file.read(stored, ())
        for module, parts in self._low.items():
            if A not in parts or B not in parts:
                raise ModelError(f"{path}: {module} has only one of {A} and {B}")

    @property
    def base(self) -> str:
        """The name of the model that it was trained on. Raises ModelError where it says none."""
        base = self._config.get("base_model_name_or_path")
        if not base:
            raise ModelError(f"{self.folder / CONFIG} does not say base_model_name_or_path: name the model beside the adapter")
        return str(base)

    def require_places(self, sources: Container[str]) -> None:
        """Raises ModelError for a part that none of the checkpoint's tensors takes."""
        for source in (*(f"{module}.weight" for module in self._low), *self._whole):
            if source not in sources:
                raise ModelError(f"{self.folder} is no adapter for this model, which has no tensor {source}")

    def merged(self, source: str, tensor: Tensor, take: Take) -> Tensor:
        """Some of a checkpoint's tensor, with what the adapter adds to it, in the tensor's own type.

        Raises ModelError where the shapes do not fit.
        """
        if source in self._whole:
            whole = self._whole[source][take]
            return self._fitting(source, tensor, whole).to(tensor.dtype)
        parts = self._low.get(source.removesuffix(".weight")) if source.endswith(".weight") else None
        if parts is None:
            return tensor
        change = self._scale(source.removesuffix(".weight"), len(parts[A])) * (parts[B] @ parts[A])
        made = tensor.float() + self._fitting(source, tensor, change[take])
        if M not in parts:
            return made.to(tensor.dtype)
        if made.shape[1] != change.shape[1]:
            raise ModelError(f"{self.folder}: DoRA is merged into whole rows: load the model without tensor_parallel")
        return (made * (parts[M][take[0]] / torch.linalg.vector_norm(made, dim=1))[:, None]).to(tensor.dtype)

    def _fitting(self, source: str, tensor: Tensor, change: Tensor) -> Tensor:
        if tensor.shape != change.shape:
            raise ModelError(
                f"{self.folder}: {source} is {list(tensor.shape)} in the model and {list(change.shape)} in the adapter"
            )
        return change

    def _scale(self, module: str, rank: int) -> float:
        alpha = _of(self._config.get("alpha_pattern") or {}, module, self._config.get("lora_alpha", 8))
        return float(alpha) / (math.sqrt(rank) if self._config.get("use_rslora") else rank)


def _of(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """What peft's patterns say of a module: the first that is its name or the end of it.

    >>> _of({"q_proj": 4}, "model.layers.0.q_proj", 8), _of({"q_proj": 4}, "model.layers.0.k_proj", 8)
    (4, 8)
    """
    return next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), default)
