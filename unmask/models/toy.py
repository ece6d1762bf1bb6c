"""Toy denoisers: real networks of a few thousand random weights, for tests that take milliseconds."""

from collections.abc import Mapping
from typing import Any

import torch

from unmask.errors import ConfigError
from unmask.models.denoiser import Denoiser
from unmask.models.layers import init_weights
from unmask.models.loading import network_class

VOCABULARY, EOS, MASK = 24, 22, 23
_IDS = {"vocab_size": VOCABULARY, "eos_token_id": EOS, "mask_token_id": MASK}
_QWEN = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    **_IDS,
}
_LLADA2: Mapping[str, Any] = {
    "architectures": ["LLaDA2MoeModelLM"],
    "model_type": "llada2_moe",
    "partial_rotary_factor": 0.5,
    "block_size": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "moe_router_enable_expert_bias": True,
    "norm_topk_prob": True,
    **_QWEN,
}
# What a config.json of theirs would hold.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llada": {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "d_model": 32,
        "n_layers": 2,
        "n_heads": 4,
        "mlp_hidden_size": 48,
        "max_sequence_length": 512,
        **_IDS,
    },
    "dream": {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        **_QWEN,
    },
    "sdar": {
        "architectures": ["SDARForCausalLM"],
        "model_type": "sdar",
        "head_dim": 12,
        "block_size": 4,
        **_QWEN,
    },
    "sdar_moe": {
        "architectures": ["SDARMoeForCausalLM"],
        "model_type": "sdar_moe",
        "head_dim": 12,
        "block_size": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "norm_topk_prob": True,
        **_QWEN,
    },
    "llada2": _LLADA2,
    "llada2_2": {**_LLADA2, "expert_capacity": 4, "delete_token_id": 20, "split_token_id": 21},
    "fast_dllm_v2": {
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "model_type": "Fast_dLLM_Qwen",
        "bd_size": 4,
        **_QWEN,
    },
    "llada_moe": {
        "architectures": ["LLaDAMoEModelLM"],
        "model_type": "llada",
        "dense_intermediate_size": 48,
        "expert_intermediate_size": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_layer_freq": [0, 1],
        "qk_layernorm": True,
        **_QWEN,
    },
}


def toy(
    family: str = "llada",
    *,
    seed: int = 0,
    sharpness: float = 1.0,
    dtype: torch.dtype = torch.float32,
    block: int | None = None,
) -> Denoiser:
    """A two-layer network of a family with 24 tokens (EOS 22, mask 23), context 512 and no tokenizer.

    `sharpness` scales the logits: large ones make the toy sure of itself, so that every rule finds something to do. `block`
    is the block length of a block-causal family; None takes 4.

    >>> toy().spec.mask_id, toy("sdar", block=8).spec.block
    (23, 8)
    """
    config = dict(CONFIGS[family])
    if block is not None:
        key = next((key for key in ("block_size", "bd_size") if key in config), None)
        if key is None:
            raise ConfigError(f"a toy of {family} has no blocks")
        config[key] = block
    network = network_class(config["architectures"][0])(config)
    init_weights(network, std=0.35, generator=torch.Generator().manual_seed(seed))
    network.logit_scale = sharpness
    network.requires_grad_(False)
    return Denoiser(network=network.to(dtype).eval(), tokenizer=None, name=f"toy-{family}")
