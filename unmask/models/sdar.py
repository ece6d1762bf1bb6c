"""SDAR (arXiv 2510.06303) and TraDo (arXiv 2509.06949): Qwen3's dense network, block-causal; row i predicts token i.

The block length is `block_size` of the config, else the end of the repository's name ("-b16"), else 4. Older repositories
name the mask in their tokenizer alone.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from unmask.decode.spec import ModelSpec
from unmask.models.config import Beside, only, read_block, read_ids, read_theta
from unmask.models.layers import QWEN, Names
from unmask.models.network import Network
from unmask.models.shape import Shape

BLOCK = 4  # of the repositories whose name says nothing
_MASKS = ("<|MASK|>", "<MASK>")  # as the published tokenizers spell it, and the training code's
_ONLY = {"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False}


class SDAR(Network):
    """The network; its keys are `model.layers.0.self_attn.q_norm.weight` and so on."""

    names: ClassVar[Names] = QWEN
    turn_ends: ClassVar[tuple[str, ...]] = ("<|im_end|>",)

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> tuple[Shape, ModelSpec]:
        """Shape and spec from a completed SDAR config.json."""
        only(config, _ONLY)
        width, heads = config["hidden_size"], config["num_attention_heads"]
        head_size = config.get("head_dim") or width // heads
        shape = Shape(
            width=width,
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config["num_key_value_heads"],
            head_size=head_size,
            rotary=head_size,
            mlp=config["intermediate_size"],
            vocab=config["vocab_size"],
            theta=read_theta(config),
            eps=config.get("rms_norm_eps", 1e-6),
            tied=bool(config.get("tie_word_embeddings")),
            qk_norm=True,
        )
        spec = ModelSpec(
            mask_id=read_ids(config, "mask_token_id", shape.vocab)[0],
            eos_ids=read_ids(config, "eos_token_id", shape.vocab),
            vocab_size=shape.vocab,
            max_length=config["max_position_embeddings"],
            block=read_block(config, "block_size"),
        )
        return shape, spec

    @staticmethod
    def complete(config: Mapping[str, Any], beside: Beside) -> Mapping[str, Any]:
        """The config with the block length, the mask and every end-of-text id, wherever they are said.

        >>> SDAR.complete({"eos_token_id": 1}, Beside("SDAR-8B-Chat-b16", {"eos_token_id": [2, 1]}, {"<|MASK|>": 3}))
        {'eos_token_id': [1, 2], 'block_size': 16, 'mask_token_id': 3}
        """
        made = dict(config)
        if "eos_token_id" in beside.generation:
            ends = [*_listed(config.get("eos_token_id")), *_listed(beside.generation["eos_token_id"])]
            made["eos_token_id"] = list(dict.fromkeys(ends))
        if config.get("block_size") is None:
            named = re.search(r"-b(\d+)$", beside.repository)
            made["block_size"] = int(named[1]) if named else BLOCK
        masks = [beside.added[token] for token in _MASKS if token in beside.added]
        if config.get("mask_token_id") is None and masks:
            made["mask_token_id"] = masks[0]
        return made


def _listed(ids: Any) -> list[Any]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
