"""Dream-v0 7B, Base and Instruct (arXiv 2508.15487), and checkpoints of that layout (DiffuCoder, for one).

Facts come from the checkpoint's config.json; module names are the checkpoint's own, so no weight map is needed.
Row i - 1 of the output predicts token i: `lookbehind` says so.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from unmask.decode.spec import ModelSpec
from unmask.models.config import only, read_ids, read_theta
from unmask.models.layers import QWEN, Names
from unmask.models.network import Network
from unmask.models.shape import Shape


class Dream(Network):
    """The network; its keys are `model.layers.0.self_attn.q_proj.weight` and so on."""

    names: ClassVar[Names] = QWEN
    turn_ends: ClassVar[tuple[str, ...]] = ("<|im_end|>",)
    # Its own tokenizer class is remote code around Qwen2's vocabulary and merges.
    tokenizers: ClassVar[Mapping[str, str]] = {"DreamTokenizer": "Qwen2TokenizerFast"}

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> tuple[Shape, ModelSpec]:
        """Shape and spec from a Dream config.json."""
        only(config, {"hidden_act": "silu", "use_sliding_window": False})
        width, heads = config["hidden_size"], config["num_attention_heads"]
        shape = Shape(
            width=width,
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_size=width // heads,
            rotary=width // heads,
            mlp=config["intermediate_size"],
            vocab=config["vocab_size"],
            theta=read_theta(config),
            eps=config.get("rms_norm_eps", 1e-6),
            qkv_bias=config.get("attention_bias", True),
            tied=bool(config.get("tie_word_embeddings")),
        )
        spec = ModelSpec(
            mask_id=read_ids(config, "mask_token_id", shape.vocab)[0],
            eos_ids=read_ids(config, "eos_token_id", shape.vocab),
            vocab_size=shape.vocab,
            max_length=config["max_position_embeddings"],
            lookbehind=1,
        )
        return shape, spec
