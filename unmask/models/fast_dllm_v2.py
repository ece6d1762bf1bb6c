"""Fast-dLLM v2 1.5B and 7B (arXiv 2509.26328): Qwen2.5's network, block-causal; row i - 1 predicts token i.

A block's first token is therefore predicted by the last row of the block before it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from unmask.decode.spec import ModelSpec
from unmask.models import config as reading
from unmask.models.config import Beside, only, read_block, read_shape, read_spec
from unmask.models.layers import QWEN, Names
from unmask.models.network import Network
from unmask.models.shape import Shape

BLOCK, MASK = 32, 151665  # of the published models; the mask is an argument of their decoding code


class FastDLLM(Network):
    """The network; its keys are `model.layers.0.self_attn.q_proj.bias` and so on."""

    names: ClassVar[Names] = QWEN
    turn_ends: ClassVar[tuple[str, ...]] = ("<|im_end|>",)

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> tuple[Shape, ModelSpec]:
        """Shape and spec from a completed Fast-dLLM v2 config.json."""
        only(config, {"hidden_act": "silu", "use_sliding_window": False})
        spec = replace(read_spec(config), lookbehind=1, block=read_block(config, "bd_size"))
        return replace(read_shape(config), qkv_bias=True), spec

    @staticmethod
    def complete(config: Mapping[str, Any], beside: Beside) -> Mapping[str, Any]:
        """The config with the mask, the block length and every end-of-text id."""
        return {"bd_size": BLOCK} | reading.complete(config, beside, masks=("<|mask|>",), mask_id=MASK)
