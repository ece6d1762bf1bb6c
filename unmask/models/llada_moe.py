"""LLaDA-MoE 7B-A1B (arXiv 2509.24389): OLMoE's kind of network, every token sees every token; row i predicts token i.

Its `model_type` is LLaDA's; the architecture tells them apart. The router's weights are used as they are, whatever the
config says of normalising them: so does the published code.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from unmask.decode.spec import ModelSpec
from unmask.models import config as reading
from unmask.models.config import Beside, only, read_shape, read_spec
from unmask.models.layers import QWEN, Names
from unmask.models.network import Network
from unmask.models.shape import MoE, Shape

MASK = 156895  # the published config names none
_ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,
    "clip_qkv": None,
    "partial_rotary_factor": 1,
    "use_sliding_window": False,
}


class LLaDAMoE(Network):
    """The network; its keys are `model.layers.0.mlp.experts.0.gate_proj.weight` and so on."""

    names: ClassVar[Names] = QWEN._replace(
        shared=("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj")
    )
    turn_ends: ClassVar[tuple[str, ...]] = ("<|role_end|>",)

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> tuple[Shape, ModelSpec]:
        """Shape and spec from a completed LLaDA-MoE config.json."""
        only(config, _ONLY)
        shape = read_shape({"rms_norm_eps": 1e-5, **config, "intermediate_size": config["dense_intermediate_size"]})
        moe = MoE(
            layers=tuple(bool(mixed) for mixed in config["moe_layer_freq"]),
            experts=config["num_experts"],
            chosen=config["num_experts_per_tok"],
            mlp=config["expert_intermediate_size"],
            shared=config.get("shared_expert_intermediate_size") or 0,
            biased=bool(config.get("moe_router_enable_expert_bias")),
            weigh_biased=True,
            normalise=False,
            scale=1.0,  # `routed_scaling_factor` is read and not used by the published code
        )
        return replace(shape, qk_norm=bool(config["qk_layernorm"]), moe=moe), read_spec(config)

    @staticmethod
    def complete(config: Mapping[str, Any], beside: Beside) -> Mapping[str, Any]:
        """The config with the mask and every end-of-text id."""
        return reading.complete(config, beside, masks=("<|mask|>",), mask_id=MASK)
