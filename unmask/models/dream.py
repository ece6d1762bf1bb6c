"""Dream-v0 7B, Base and Instruct (arXiv 2508.15487), and checkpoints of that layout (DiffuCoder, for one).

Facts come from the checkpoint's config.json; module names are the checkpoint's own, so no weight map is needed.
Row i - 1 of the output predicts token i: `lookbehind` says so.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from unmask.decode.spec import ModelSpec
from unmask.models.config import only, read_shape, read_spec
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
        shape = replace(read_shape(config), qkv_bias=config.get("attention_bias", True))
        return shape, replace(read_spec(config), lookbehind=1)
