"""LoRA through peft (arXiv 2106.09685): small trained matrices beside frozen ones, and how they are merged.

The adapter files are in peft's format and use the checkpoint's module names, so they also fit the authors' remote code.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import Tensor, nn

from unmask.errors import ConfigError
from unmask.files import write_atomically
from unmask.models.hf import wrap
from unmask.models.network import Network

# peft asks transformers for a property by its old name.
_RENAMED = "`is_gradient_checkpointing` is deprecated"


def targets(network: Network) -> str:
    r"""A pattern that matches the matrices of every layer, but not an output matrix of the same name.

    >>> from unmask.models.toy import toy
    >>> print(targets(toy("llada").network))
    model\.transformer\.blocks\.\d+\.(attn_out|ff_out|ff_proj|k_proj|q_proj|up_proj|v_proj)
    """
    parts = [part for block in network.blocks() for part in block.named_modules()]
    matrices = sorted({re.escape(name) for name, module in parts if isinstance(module, nn.Linear)})
    return rf"{re.escape(network.names.layers)}\.\d+\.({'|'.join(matrices)})"


def add(network: Network, settings: Mapping[str, Any], *, rank: int, alpha: int, dropout: float, seed: int) -> PeftModel:
    """Freeze the network and put adapters beside its layers' matrices, in place; `settings` is its config.json."""
    if rank < 1:
        raise ConfigError(f"lora rank must be at least 1, got {rank}")
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, bias="none", target_modules=targets(network))
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(seed)  # peft draws from the global generator
        warnings.filterwarnings("ignore", message=_RENAMED)
        return get_peft_model(wrap(network, settings), config)


def save(model: PeftModel, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors; `weights` by the network's own names."""
    state = {f"base_model.model.{name}": tensor for name, tensor in weights.items()}
    partial = folder / "adapter.partial"
    # No embedding is trained; without this argument peft would ask the hub for the base model.
    model.save_pretrained(str(partial), state_dict=state, save_embedding_layers=False)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        write_atomically(folder / name, lambda place, name=name: (partial / name).rename(place))  # type: ignore[misc]
    for left in partial.iterdir():
        left.unlink()
    partial.rmdir()


def merged(network: Network, settings: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    """The network's weights with the adapter of `folder` added in. Raises ConfigError if it does not fit the network."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_RENAMED)
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(wrap(network, settings), str(folder))
    except (ValueError, RuntimeError, OSError, UserWarning, SafetensorError) as error:
        raise ConfigError(f"{folder}: not an adapter for this model ({str(error).splitlines()[0][:200]})") from None
    model.merge_and_unload()
    return dict(network.state_dict())
