"""LLaDA (arXiv 2502.09992): 8B Base, Instruct, 1.5 and every checkpoint of that layout, the embedded model included.

Facts come from the checkpoint's config.json; module names are the checkpoint's own, so no weight map is needed.
Row i of the output predicts token i.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from unmask.decode.spec import ModelSpec
from unmask.models.config import only, read_ids, read_theta
from unmask.models.layers import Names
from unmask.models.network import Network
from unmask.models.shape import Shape

# What the published classes can also do and no published checkpoint uses.
_ONLY = {
    "alibi": False,
    "attention_layer_norm": False,
    "block_type": "llama",
    "block_group_size": 1,
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "rope": True,
    "bias_for_layer_norm": False,
}


class LLaDA(Network):
    """The network; its keys are `model.transformer.blocks.0.q_proj.weight` and so on."""

    names: ClassVar[Names] = Names(
        embedding="model.transformer.wte",
        layers="model.transformer.blocks",
        norm="model.transformer.ln_f",
        head="model.transformer.ff_out",
        attention_norm="attn_norm",
        qkv=("q_proj", "k_proj", "v_proj"),
        o="attn_out",
        mlp_norm="ff_norm",
        mlp=("ff_proj", "up_proj", "ff_out"),
    )

    turn_ends: ClassVar[tuple[str, ...]] = ("<|eot_id|>", "<|im_end|>")  # the second in models derived from it

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        width = self.shape.width
        self.embedding_scale = width**0.5 if config.get("input_emb_norm") else 1.0
        self.logit_scale = width**-0.5 if config.get("scale_logits") else 1.0

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> tuple[Shape, ModelSpec]:
        """Shape and spec from a LLaDA config.json."""
        only(config, _ONLY)
        width, heads = config["d_model"], config["n_heads"]
        shape = Shape(
            width=width,
            layers=config["n_layers"],
            heads=heads,
            kv_heads=config.get("n_kv_heads") or (1 if config.get("multi_query_attention") else heads),
            head_size=width // heads,
            rotary=width // heads,
            mlp=config.get("mlp_hidden_size") or config["mlp_ratio"] * width,
            vocab=config.get("embedding_size") or config["vocab_size"],
            theta=read_theta(config),
            eps=config.get("rms_norm_eps", 1e-5),
            qkv_bias=bool(config.get("include_bias") or config.get("include_qkv_bias")),
            bias=bool(config.get("include_bias")),
            tied=bool(config.get("weight_tying")),
        )
        spec = ModelSpec(
            mask_id=read_ids(config, "mask_token_id", shape.vocab)[0],
            eos_ids=read_ids(config, "eos_token_id", shape.vocab),
            vocab_size=shape.vocab,
            max_length=config["max_sequence_length"],
        )
        return shape, spec
