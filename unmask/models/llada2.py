"""LLaDA2.0, 2.1 and 2.2 (arXiv 2512.15745): Ling's network of experts, block-causal; row i predicts token i.

Queries, keys and values come from one matrix, half of every head is rotated, the first layers are dense. 2.2 is the same
network with another choice of experts, which its config tells by `expert_capacity`: the tokens of a block share them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from unmask.decode.spec import ModelSpec
from unmask.models import config as reading
from unmask.models.config import Beside, only, read_block, read_ids, read_shape, read_spec
from unmask.models.layers import Names
from unmask.models.network import Network
from unmask.models.shape import MoE, Shape

BLOCK, MASK = 32, 156895  # of the published models, whose 2.0 and 2.1 configs name neither
_ONLY = {
    "hidden_act": "silu",
    "use_sliding_window": False,
    "use_bias": False,
    "use_qkv_bias": False,
    "use_qk_norm": True,
    "norm_head": False,
    "score_function": "sigmoid",
}


class LLaDA2(Network):
    """The network; its keys are `model.layers.0.attention.query_key_value.weight` and so on."""

    names: ClassVar[Names] = Names(
        embedding="model.word_embeddings",
        layers="model.layers",
        norm="model.norm",
        head="lm_head",
        attention_norm="input_layernorm",
        qkv=("attention.query_key_value",),
        o="attention.dense",
        mlp_norm="post_attention_layernorm",
        mlp=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        q_norm="attention.query_layernorm",
        k_norm="attention.key_layernorm",
        shared=("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj", "mlp.shared_experts.down_proj"),
    )
    turn_ends: ClassVar[tuple[str, ...]] = ("<|role_end|>",)

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> tuple[Shape, ModelSpec]:
        """Shape and spec from a completed LLaDA2 config.json."""
        only(config, _ONLY)
        shape, block = read_shape(config), read_block(config, "block_size")
        rotated = config.get("rotary_dim") or int(shape.head_size * config["partial_rotary_factor"])
        hidden, dense = config["moe_intermediate_size"], config["first_k_dense_replace"]
        moe = MoE(
            layers=tuple(number >= dense for number in range(shape.layers)),
            experts=config["num_experts"],
            chosen=config["num_experts_per_tok"],
            mlp=hidden,
            shared=hidden * (config.get("num_shared_experts") or 0),
            score="sigmoid",
            biased=bool(config["moe_router_enable_expert_bias"]),
            normalise=bool(config["norm_topk_prob"]),
            scale=config["routed_scaling_factor"],
            groups=config["n_group"],
            best_groups=config["topk_group"],
            capacity=config.get("expert_capacity"),
            block=block,
        )
        return replace(shape, rotary=rotated, qk_norm=True, moe=moe), replace(
            read_spec(config), block=block, only_block=moe.capacity is not None, marks=_marks(config)
        )

    @staticmethod
    def complete(config: Mapping[str, Any], beside: Beside) -> Mapping[str, Any]:
        """The config with the mask, the block length and every end-of-text id."""
        made = reading.complete(config, beside, masks=("<|mask|>",), mask_id=MASK)
        return {"block_size": BLOCK} | made


def _marks(config: Mapping[str, Any]) -> tuple[int, ...]:
    """LLaDA2.2's DELETE and SPLIT."""
    named = [f"{mark}_token_id" for mark in ("delete", "split")]
    return tuple(read_ids(config, key, config["vocab_size"])[0] for key in named if config.get(key) is not None)
