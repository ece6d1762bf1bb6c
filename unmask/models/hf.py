"""Our networks as transformers classes, so that `AutoModel.from_pretrained(folder)` needs no remote code.

The classes hold the very modules of our networks under the checkpoints' own names; `save_pretrained` therefore writes what
the authors' code reads. Their output is the raw logits, in the checkpoint's own alignment and under its own mask.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import MergeModulelist, WeightConverter
from transformers.modeling_outputs import CausalLMOutput

from unmask.errors import ModelError
from unmask.models import TABLE
from unmask.models.hf_config import CONFIGS
from unmask.models.layers import Names
from unmask.models.loading import beside, network_class
from unmask.models.network import Network
from unmask.models.parallel import STYLES


class _Wrapped(PreTrainedModel):  # type: ignore[misc]
    """A network behind transformers' interface."""

    kind: ClassVar[type[Network]]
    base_model_prefix = ""
    _no_split_modules = ("TransformerLayer",)
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = ("expert_bias",)

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        settings = self.kind.complete(config.to_dict(), beside(Path(config.name_or_path)))
        self.adopt(self.kind(settings))
        self.post_init()

    def adopt(self, network: Network) -> None:
        """Hold a network's modules in place of the own ones."""
        # The network itself stays unregistered: its modules are registered here, under the checkpoint's names.
        object.__setattr__(self, "network", network)
        for name, module in network.named_children():
            setattr(self, name, module)

    def get_input_embeddings(self) -> Any:
        return self.network.embedding()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> CausalLMOutput:
        """Logits [B, T, V] of whole sequences. Raises ModelError for a mask that hides something: batch by length instead."""
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ModelError("padding is not supported here: use unmask.generate, which batches any mix of lengths")
        return CausalLMOutput(logits=self.network(input_ids))


def _wrapper(architecture: str) -> type[_Wrapped]:
    """The class of an architecture, of its name: `save_pretrained` writes that into config.json."""
    kind, model_type = network_class(architecture), TABLE[architecture].model_type
    facts = {
        "config_class": CONFIGS[model_type] if model_type else PreTrainedConfig,
        "kind": kind,
        "_tp_plan": _tp_plan(kind.names),
        "__module__": __name__,
        "__doc__": f"{kind.__name__} for transformers.",
    }
    return type(architecture, (_Wrapped,), facts)


def _tp_plan(names: Names) -> dict[str, str]:
    """What transformers' own tensor parallelism can share: it has no word for a fused matrix, nor for our joined experts."""
    plan = dict(names.tp_plan())
    if len(names.qkv) == 1:
        del plan[f"{names.layers}.*.{names.o}"]
    return {name: style for name, style in plan.items() if style in STYLES}


def _joining(names: Names) -> list[WeightConverter]:
    """How transformers makes our joined tensors from a checkpoint's experts, and those from ours when it saves."""
    return [
        WeightConverter(f"{names.experts}.*.{leaf}.weight", f"{names.experts}.{leaf}", operations=[MergeModulelist(dim=0)])
        for leaf in ("gate_proj", "up_proj", "down_proj")
    ]


WRAPPERS: Mapping[str, type[_Wrapped]] = {architecture: _wrapper(architecture) for architecture in TABLE}


def register() -> None:
    """Tell AutoModel and AutoModelForCausalLM about the classes; again is harmless."""
    # Not at the top: importing the registry is what calls this function.
    from transformers import AutoModel, AutoModelForCausalLM

    for architecture, model in WRAPPERS.items():
        register_checkpoint_conversion_mapping(architecture, _joining(model.kind.names), overwrite=True)
    for config in CONFIGS.values():
        # Of several architectures under one config, transformers takes the one that config.json names.
        models = tuple(model for model in WRAPPERS.values() if model.config_class is config)
        for auto in (AutoModel, AutoModelForCausalLM):
            auto.register(config, models[0] if len(models) == 1 else models, exist_ok=True)


def wrap(network: Network, settings: Mapping[str, Any]) -> _Wrapped:
    """A network that is already there as a transformers model, modules shared; `settings` is its config.json.

    Raises ModelError for a network that belongs to none of the architectures, or whose plain weights are not here.
    """
    network.require_whole()
    wrappers = [wrapper for wrapper in WRAPPERS.values() if wrapper.kind is type(network)]
    if not wrappers:
        raise ModelError(f"{type(network).__name__} is no network of ours that transformers knows: {', '.join(WRAPPERS)}")
    with torch.device("meta"):
        model = wrappers[0](wrappers[0].config_class(**{**network.config, **settings}))
    model.adopt(network)  # after post_init, which fills weights with noise
    return model
