"""Our networks as transformers classes, so that `AutoModel.from_pretrained(folder)` needs no remote code.

The classes hold the very modules of our networks under the checkpoints' own names; `save_pretrained` therefore writes what
the authors' code reads. Their output is the raw logits, in the checkpoint's own alignment and under its own mask.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import MergeModulelist, WeightConverter
from transformers.modeling_outputs import CausalLMOutput

from unmask.errors import ModelError
from unmask.models import TABLE
from unmask.models.hf_config import CONFIGS
from unmask.models.layers import Names, put
from unmask.models.loading import beside, network_class
from unmask.models.network import Network
from unmask.models.parallel import STYLES


class _Wrapped(PreTrainedModel):  # type: ignore[misc]
    """A network behind transformers' interface: peft and the Trainer tune it as they tune a causal language model."""

    kind: ClassVar[type[Network]]
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # the Trainer hands over `num_items_in_batch`
    generation_config = None
    _no_split_modules = ("TransformerLayer",)
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = ("expert_bias",)

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        said = config.to_dict()
        settings = self.kind.complete(said, beside(Path(config.name_or_path)))
        # What stands beside config.json now is not saved with the model, so its own config takes it over.
        config.update({name: value for name, value in settings.items() if value != said.get(name)})
        self.adopt(self.kind(settings))
        # Names of transformers' losses: whether row i predicts token i + 1 or token i.
        self.loss_type = "ForCausalLM" if self.network.spec.lookbehind else "ForMaskedLM"
        self.post_init()

    def adopt(self, network: Network) -> None:
        """Hold a network's modules in place of the own ones."""
        # The network itself stays unregistered: its modules are this model's, under the checkpoint's names. One dictionary
        # for both, so that the network also sees a module that peft puts in another's place.
        object.__setattr__(self, "network", network)
        object.__setattr__(self, "_modules", network._modules)

    # --- matrices of the vocabulary

    def get_input_embeddings(self) -> Any:
        return self.network.embedding()

    def set_input_embeddings(self, value: nn.Module) -> None:
        put(self.network, self.network.names.embedding, value)

    def get_output_embeddings(self) -> Any:
        return self.network.head()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        names = self.network.names
        put(self.network, names.embedding if self.network.shape.tied else names.head, new_embeddings)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> Any:
        """The embedding with so many rows, the output matrix likewise; returns it.

        Raises ModelError if the mask or the end of text would lose its row.
        """
        network = self.network
        network.require_whole()
        needed = max(network.spec.mask_id, *network.spec.eos_ids) + 1
        if new_num_tokens is not None and new_num_tokens < needed:
            raise ModelError(f"{new_num_tokens} tokens leave out the mask or the end of text: keep at least {needed}")
        embedding = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        sizes = {name: len(embedding.weight) for name in ("vocab_size", "embedding_size") if name in network.config}
        self.config.update(sizes)
        network.config, network.running = {**network.config, **sizes}, None
        network.shape = replace(network.shape, vocab=len(embedding.weight))
        network.spec = replace(network.spec, vocab_size=len(embedding.weight))
        return embedding

    # --- forward

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutput | tuple[Tensor, ...]:
        """Logits [B, T, V] of whole sequences, in the checkpoint's own alignment.

        Args:
            input_ids, inputs_embeds: tokens [B, T], or in their place rows [B, T, C] of the embedding.
            position_ids: [T], or [B, T] with equal rows: rising from one token to the next.
            labels: [B, T], the right tokens, -100 where none is asked: of a masked sequence all that is not masked. The loss
                is the mean cross-entropy of the rest, over `num_items_in_batch` tokens where the Trainer counts them.
            output_hidden_states: also the embedded tokens and every layer's states, the last one's normalised.

        Raises ModelError for what a bidirectional network has not: a cache of keys, a mask that hides tokens.
        """
        refuse_causal(attention_mask, past_key_values, use_cache, output_attentions)
        if (input_ids is None) == (inputs_embeds is None):
            raise ModelError("give either input_ids or inputs_embeds")
        network, tokens = self.network, input_ids if inputs_embeds is None else inputs_embeds
        network.checkpointing = self.gradient_checkpointing and self.training
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        positions = None if position_ids is None else one_row(position_ids)
        with collected(network.blocks() if wanted else []) as states:
            last = network.hidden(tokens, positions_Q=positions)
        logits = network.project(last)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, logits.shape[-1], num_items_in_batch=num_items_in_batch)
        made = CausalLMOutput(loss=loss, logits=logits, hidden_states=(*states, last) if wanted else None)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return made if as_dict else made.to_tuple()

    # --- generation, which is not token by token here

    @classmethod
    def can_generate(cls) -> bool:
        return False

    def prepare_inputs_for_generation(self, *inputs: Any, **settings: Any) -> Any:
        """Raises ModelError; the method exists because peft asks every causal language model for it."""
        raise ModelError("answers are not written token by token here: save the model, unmask.load it and unmask.generate")

    generate = prepare_inputs_for_generation


def refuse_causal(mask: Tensor | None, past: Any, use_cache: bool | None, attentions: bool | None) -> None:
    """Raises ModelError for arguments of a forward that ask for what our networks do not have or do not show."""
    if mask is not None and not bool(mask.all()):
        raise ModelError(
            "padding is not supported here: use unmask.generate, which batches any mix of lengths; "
            "to train, fill rows with the end of text, label it -100 and leave attention_mask out"
        )
    if past is not None or use_cache:
        raise ModelError("use_cache is for causal models: unmask.generate has the caches of a masked diffusion model")
    if attentions:
        raise ModelError("output_attentions is not supported: attention is computed without its matrix")


def one_row(position_ids: Tensor) -> Tensor:
    """Positions [T] of all rows. Raises ModelError if they differ, or fall as where several texts are packed into a row."""
    positions = position_ids if position_ids.dim() == 1 else position_ids[0]
    if not bool((position_ids == positions).all()) or not bool((positions.diff() > 0).all()):
        raise ModelError("position_ids must be the same for all rows and rise: rows of several texts are not supported")
    return positions


@contextmanager
def collected(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """What goes into each of these layers while the block runs."""
    states: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda layer, inputs: states.append(inputs[0])) for layer in layers]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


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
    network.require_contiguous()
    wrappers = [wrapper for wrapper in WRAPPERS.values() if wrapper.kind is type(network)]
    if not wrappers:
        raise ModelError(f"{type(network).__name__} is no network of ours that transformers knows: {', '.join(WRAPPERS)}")
    with torch.device("meta"):
        model = wrappers[0](wrappers[0].config_class(**{**network.config, **settings}))
    model.adopt(network)  # after post_init, which fills weights with noise
    return model
