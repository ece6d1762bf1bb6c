"""SDAR (arXiv 2510.06303) and TraDo (arXiv 2509.06949): Qwen3's network, dense or of experts, block-causal.

Row i predicts token i. The block length is `block_size` of the config, else the end of the repository's name ("-b16"), else
4. Older repositories name the mask in their tokenizer alone.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from unmask.decode.spec import ModelSpec
from unmask.models import config as reading
from unmask.models.config import Beside, only, read_block, read_shape, read_spec
from unmask.models.layers import QWEN, Names
from unmask.models.network import Network
from unmask.models.shape import MoE, Shape

BLOCK = 4  # of the repositories whose name says nothing
_MASKS = ("<|MASK|>", "<MASK>")  # as the published tokenizers spell it, and the training code's
# A fork that reads its prompt token by token is another network, though its config differs in one flag.
_ONLY = {"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False, "use_regular_causal": False}


class SDAR(Network):
    """The dense network; its keys are `model.layers.0.self_attn.q_norm.weight` and so on."""

    names: ClassVar[Names] = QWEN
    turn_ends: ClassVar[tuple[str, ...]] = ("<|im_end|>",)

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> tuple[Shape, ModelSpec]:
        """Shape and spec from a completed SDAR config.json."""
        only(config, _ONLY)
        return replace(read_shape(config), qk_norm=True), replace(read_spec(config), block=read_block(config, "block_size"))

    @staticmethod
    def complete(config: Mapping[str, Any], beside: Beside) -> Mapping[str, Any]:
        """The config with the block length, the mask and every end-of-text id, wherever they are said.

        >>> SDAR.complete({"eos_token_id": 1}, Beside("SDAR-8B-Chat-b16", {}, {"<|MASK|>": 3}))
        {'eos_token_id': 1, 'mask_token_id': 3, 'block_size': 16}
        """
        made = reading.complete(config, beside, masks=_MASKS)
        if config.get("block_size") is None:
            named = re.search(r"-b(\d+)$", beside.repository)
            made["block_size"] = int(named[1]) if named else BLOCK
        return made


class SDARMoe(SDAR):
    """The network of experts; its keys are `model.layers.0.mlp.experts.0.gate_proj.weight` and so on."""

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> tuple[Shape, ModelSpec]:
        """Shape and spec from a completed config.json with Qwen3-MoE's keys."""
        shape, spec = SDAR.read_config(config)
        dense, step = config.get("mlp_only_layers") or [], config.get("decoder_sparse_step", 1)
        moe = MoE(
            layers=tuple(number not in dense and (number + 1) % step == 0 for number in range(shape.layers)),
            experts=config["num_experts"],
            chosen=config["num_experts_per_tok"],
            mlp=config["moe_intermediate_size"],
            normalise=bool(config.get("norm_topk_prob")),
        )
        return replace(shape, moe=moe), spec
