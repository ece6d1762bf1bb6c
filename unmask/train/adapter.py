"""LoRA through peft (arXiv 2106.09685): small trained matrices beside frozen ones, and how they are merged.

The adapter files are in peft's format and use the checkpoint's module names, so they also fit the authors' remote code.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import Tensor, nn

from unmask.errors import ConfigError, unknown
from unmask.files import write_atomically
from unmask.models.hf import wrap
from unmask.models.network import Network

# peft asks transformers for a property by its old name.
_RENAMED = "`is_gradient_checkpointing` is deprecated"


def matrices(network: Network, names: Sequence[str] | None = None) -> dict[str, nn.Linear]:
    """The matrices that get adapters, by their dotted names: all of every layer, or those that `names` name.

    A name is that of a matrix in every layer, with or without the part that it belongs to (q_proj, self_attn.q_proj), or
    the whole name of one outside of them (lm_head).

    Raises ConfigError for a name that no matrix has.
    """
    linear = {name: part for name, part in network.named_modules() if isinstance(part, nn.Linear)}
    if names is None:
        return {name: part for name, part in linear.items() if _within(network, name) != name}
    chosen: dict[str, nn.Linear] = {}
    for wanted in names:
        found = {name: part for name, part in linear.items() if f".{_within(network, name)}".endswith(f".{wanted}")}
        if not found:
            known = {name if _within(network, name) == name else name.rpartition(".")[2] for name in linear}
            raise unknown("lora target module", wanted, known)
        chosen |= found
    return chosen


def _within(network: Network, name: str) -> str:
    """The name of a module of a layer within it; of any other module the whole name."""
    return re.sub(rf"^{re.escape(network.names.layers)}\.\d+\.", "", name)


def targets(network: Network, names: Sequence[str] | None = None) -> str:
    r"""The pattern of the names of `matrices`: those of every layer, but not an output matrix of the same name.

    >>> from unmask.models.toy import toy
    >>> print(targets(toy("llada").network))
    model\.transformer\.blocks\.\d+\.(attn_out|ff_out|ff_proj|k_proj|q_proj|up_proj|v_proj)
    """
    chosen = matrices(network, names)
    inside = sorted({re.escape(_within(network, name)) for name in chosen if _within(network, name) != name})
    outside = sorted(re.escape(name) for name in chosen if _within(network, name) == name)
    layers = [rf"{re.escape(network.names.layers)}\.\d+\.({'|'.join(inside)})"] if inside else []
    return "|".join(layers + outside)


def add(
    network: Network,
    settings: Mapping[str, Any],
    *,
    rank: int,
    alpha: int,
    dropout: float,
    seed: int,
    target_modules: Sequence[str] | None = None,
) -> PeftModel:
    """Freeze the network and put adapters beside its layers' matrices, in place; `settings` is its config.json."""
    if rank < 1:
        raise ConfigError(f"lora rank must be at least 1, got {rank}")
    chosen = targets(network, target_modules)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, bias="none", target_modules=chosen, task_type="CAUSAL_LM"
    )
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
