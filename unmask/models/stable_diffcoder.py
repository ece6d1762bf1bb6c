"""Stable-DiffCoder 8B (arXiv 2601.15892): Llama's network, block-causal; row i predicts token i.

Its architecture is Llama's, so what tells it from a model that writes from left to right is a mask token, in the config or
in the tokenizer.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from unmask.decode.spec import ModelSpec
from unmask.errors import ModelError
from unmask.models import config as reading
from unmask.models.config import Beside, only, read_block, read_shape, read_spec
from unmask.models.layers import QWEN, Names
from unmask.models.network import Network
from unmask.models.shape import Shape

BLOCK = 4  # of the published model


class StableDiffCoder(Network):
    """The network; its keys are `model.layers.0.self_attn.q_proj.weight` and so on."""

    names: ClassVar[Names] = QWEN

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> tuple[Shape, ModelSpec]:
        """Shape and spec from a completed Llama config.json."""
        only(config, {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False})
        return read_shape(config), replace(read_spec(config), block=read_block(config, "block_size"))

    @staticmethod
    def complete(config: Mapping[str, Any], beside: Beside) -> Mapping[str, Any]:
        """The config with the mask, the block length and every end-of-text id. Raises ModelError where no mask is named.

        >>> StableDiffCoder.complete({"eos_token_id": 1}, Beside("Llama-3-8B"))
        Traceback (most recent call last):
        unmask.errors.ModelError: neither config.json nor the tokenizer names a mask token: this Llama writes from left to right
        """
        made = reading.complete(config, beside)
        if made.get("mask_token_id") is None:
            raise ModelError("neither config.json nor the tokenizer names a mask token: this Llama writes from left to right")
        return {"block_size": BLOCK} | made
