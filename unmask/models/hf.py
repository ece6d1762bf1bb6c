"""Our networks as transformers classes, so that `AutoModel.from_pretrained(folder)` needs no remote code.

The classes hold the very modules of models/llada.py and models/dream.py under the checkpoints' own names; `save_pretrained`
therefore writes what the authors' code reads. Their output is the raw logits, in the checkpoint's own alignment.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from unmask.errors import ModelError
from unmask.models.dream import Dream
from unmask.models.hf_config import DreamConfig, LLaDAConfig
from unmask.models.layers import Network
from unmask.models.llada import LLaDA


class _Wrapped(PreTrainedModel):  # type: ignore[misc]
    """A network behind transformers' interface."""

    base_model_prefix = ""
    _no_split_modules = ("Block", "Layer")
    _supports_sdpa = True

    def _adopt(self, network: Network) -> None:
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


class LLaDAModelLM(_Wrapped):
    """LLaDA for transformers."""

    config_class = LLaDAConfig
    _tp_plan = LLaDA.tp_plan

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__(config)
        self._adopt(LLaDA(config.to_dict()))
        self.post_init()


class DreamModel(_Wrapped):
    """Dream for transformers. Row i - 1 of the logits predicts token i, as in the authors' class."""

    config_class = DreamConfig
    _tp_plan = Dream.tp_plan

    def __init__(self, config: DreamConfig) -> None:
        super().__init__(config)
        self._adopt(Dream(config.to_dict()))
        self.post_init()


def register() -> None:
    """Tell AutoModel and AutoModelForCausalLM about the classes; again is harmless."""
    # Not at the top: importing the registry is what calls this function.
    from transformers import AutoModel, AutoModelForCausalLM

    for config, model in ((LLaDAConfig, LLaDAModelLM), (DreamConfig, DreamModel)):
        AutoModel.register(config, model, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)


def wrap(network: Network, settings: Mapping[str, Any]) -> _Wrapped:
    """A network that is already there as a transformers model, modules shared; `settings` is its config.json."""
    kind, config = (DreamModel, DreamConfig) if isinstance(network, Dream) else (LLaDAModelLM, LLaDAConfig)
    with torch.device("meta"):
        model: _Wrapped = kind(config(**settings))
    model._adopt(network)  # after post_init, which fills weights with noise
    return model
