"""The start of a pre-training: a config.json of the chosen size, and weights, random or taken over."""

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unmask.errors import ConfigError
from unmask.models.layers import TransformerLayer, init_weights
from unmask.models.network import Network
from unmask.train.tokenizer import EOS, MASK, PAD


class Sizes(Protocol):
    """The settings of a pre-training that a network's config.json needs (`PretrainConfig`)."""

    @property
    def width(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def mlp(self) -> int: ...
    @property
    def max_length(self) -> int: ...
    @property
    def block_length(self) -> int: ...


def llada_config(sizes: Sizes, vocab_size: int) -> dict[str, Any]:
    """The config.json of a LLaDA checkpoint of this size."""
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "d_model": sizes.width,
        "n_heads": sizes.heads,
        "n_kv_heads": sizes.heads,
        "n_layers": sizes.layers,
        "mlp_hidden_size": sizes.mlp,
        "mlp_ratio": 4,
        "activation_type": "silu",
        "block_type": "llama",
        "block_group_size": 1,
        "alibi": False,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 10000.0,
        "flash_attention": False,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "rms_norm_eps": 1e-5,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "max_sequence_length": sizes.max_length,
        "include_bias": False,
        "include_qkv_bias": False,
        "bias_for_layer_norm": False,
        "vocab_size": vocab_size,
        "embedding_size": vocab_size,
        "weight_tying": False,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "mask_token_id": MASK,
        "init_device": "cpu",
        "init_fn": "normal",
        "init_std": 0.02,
        "scale_logits": False,
        "input_emb_norm": False,
        "torch_dtype": "float32",
    }


def sdar_config(sizes: Sizes, vocab_size: int) -> dict[str, Any]:
    """The config.json of an SDAR checkpoint of this size; `block_length` becomes its `block_size`."""
    return {
        "architectures": ["SDARForCausalLM"],
        "model_type": "sdar",
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.heads,
        "head_dim": sizes.width // sizes.heads,
        "intermediate_size": sizes.mlp,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": sizes.max_length,
        "use_sliding_window": False,
        "sliding_window": None,
        "initializer_range": 0.02,
        "vocab_size": vocab_size,
        "tie_word_embeddings": False,
        "bos_token_id": EOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "mask_token_id": MASK,
        "block_size": sizes.block_length,
        "torch_dtype": "float32",
    }


CONFIGS = {"LLaDAModelLM": llada_config, "SDARForCausalLM": sdar_config}


def initialise(network: Network, generator: torch.Generator) -> None:
    """Large embeddings, small matrices, and an output matrix that starts as a small copy of the embeddings.

    With embeddings as small as the rest, the differences between names are soon lost in what all names share, and copying a
    word from the question, which every task needs, is learnt thousands of steps later (docs/LOG.md).
    """
    init_weights(network, std=0.02, generator=generator)
    embedding, head = (network.get_parameter(f"{name}.weight") for name in (network.names.embedding, network.names.head))
    with torch.no_grad():
        embedding.normal_(0.0, 1.0, generator=generator)
        head.copy_(0.02 * embedding)


def roles(network: Network) -> dict[str, nn.Parameter]:
    """Every parameter by its role, under names that all families share.

    The matrix of the third layer's queries is "2.qkv.0.weight", the embedding "embedding.0.weight".

    >>> from unmask.models.toy import toy
    >>> sorted(roles(toy("sdar").network).keys() - roles(toy("llada").network).keys())
    ['0.k_norm.0.weight', '0.q_norm.0.weight', '1.k_norm.0.weight', '1.q_norm.0.weight']
    """
    found = {}
    for place, owner in [("", network), *((f"{number}.", layer) for number, layer in enumerate(network.blocks()))]:
        modules = dict(owner.named_modules())
        for role, names in network.names._asdict().items():
            for number, name in enumerate(names if isinstance(names, tuple) else (names,)):
                if role != "layers" and name and name in modules:
                    for leaf, parameter in modules[name].named_parameters():
                        found[f"{place}{role}.{number}.{leaf}"] = parameter
    return found


@torch.no_grad()
def take_over(network: Network, before: Network, tokens_BT: Tensor) -> None:
    """Copy the weights of a network of the same shape, of any family.

    Norms of queries and keys that only `network` has start at the root mean square of the queries and keys of `before`
    on these tokens [B, T], so that `network` starts as nearly the same function.

    Raises ConfigError if the two differ by more than those norms.
    """
    ours, theirs = roles(network), roles(before)
    new = {role for role in ours.keys() - theirs.keys() if "q_norm" not in role and "k_norm" not in role}
    if before.shape != replace(network.shape, qk_norm=before.shape.qk_norm) or new or theirs.keys() - ours.keys():
        raise ConfigError(f"weights of the shape {before.shape} cannot begin a model of the shape {network.shape}")
    for role, parameter in theirs.items():
        ours[role].copy_(parameter)
    if network.shape.qk_norm and not before.shape.qk_norm:
        for number, (queries, keys) in enumerate(head_sizes(before, tokens_BT)):
            ours[f"{number}.q_norm.0.weight"].fill_(queries)
            ours[f"{number}.k_norm.0.weight"].fill_(keys)


@torch.no_grad()
def head_sizes(network: Network, tokens_BT: Tensor) -> list[tuple[float, float]]:
    """Per layer, the root mean square of a head's queries, and that of its keys: the mean over tokens and heads."""
    found: list[tuple[float, float]] = []

    def measure(layer: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(layer, TransformerLayer)
        parts = layer.parts()
        queries, keys, _ = parts.qkv(parts.attention_norm(given[0]))
        heads = [torch.unflatten(channels, -1, (-1, parts.head_size)) for channels in (queries, keys)]
        q, k = (x.square().mean(-1).sqrt().mean().item() for x in heads)
        found.append((q, k))

    hooks = [layer.register_forward_pre_hook(measure) for layer in network.blocks()]
    network.hidden(tokens_BT)
    for hook in hooks:
        hook.remove()
    return found
