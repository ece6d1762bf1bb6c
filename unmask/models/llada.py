"""LLaDA (arXiv 2502.09992): 8B Base, Instruct, 1.5 and every checkpoint of that layout, the embedded model included.

Facts come from the checkpoint's config.json; module names are the checkpoint's own, so no weight map is needed.
Row i of the output predicts token i.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from unmask.errors import ModelError
from unmask.models.denoiser import ModelSpec
from unmask.models.layers import Network, Parts, RMSNorm, Shape, TransformerLayer, linear, read_ids, read_theta

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


def read_config(config: Mapping[str, Any]) -> tuple[Shape, ModelSpec]:
    """Shape and spec from a LLaDA config.json. Raises ModelError on a missing key or an unsupported variant."""
    for key, only in _ONLY.items():
        if config.get(key, only) not in (only, None):
            raise ModelError(f"config.json: {key} = {config[key]!r} is not supported, only {only!r}")
    try:
        heads = config["n_heads"]
        kv_heads = config.get("n_kv_heads") or (1 if config.get("multi_query_attention") else heads)
        shape = Shape(
            width=config["d_model"],
            layers=config["n_layers"],
            heads=heads,
            kv_heads=kv_heads,
            mlp=config.get("mlp_hidden_size") or config["mlp_ratio"] * config["d_model"],
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
    except KeyError as missing:
        raise ModelError(f"config.json: the key {missing} is missing") from None
    return shape, spec


class Block(TransformerLayer):
    """One layer, with the checkpoint's module names."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape.head_size)
        kv_width = shape.kv_heads * shape.head_size
        self.attn_norm = RMSNorm(shape.width, shape.eps)
        self.ff_norm = RMSNorm(shape.width, shape.eps)
        self.q_proj = linear(shape.width, shape.width, shape.qkv_bias)
        self.k_proj = linear(shape.width, kv_width, shape.qkv_bias)
        self.v_proj = linear(shape.width, kv_width, shape.qkv_bias)
        self.attn_out = linear(shape.width, shape.width, shape.bias)
        self.ff_proj = linear(shape.width, shape.mlp, shape.bias)
        self.up_proj = linear(shape.width, shape.mlp, shape.bias)
        self.ff_out = linear(shape.mlp, shape.width, shape.bias)

    def parts(self) -> Parts:
        return Parts(
            attention_norm=self.attn_norm,
            q=self.q_proj,
            k=self.k_proj,
            v=self.v_proj,
            o=self.attn_out,
            mlp_norm=self.ff_norm,
            gate=self.ff_proj,
            up=self.up_proj,
            down=self.ff_out,
        )


class LLaDA(Network):
    """The network; `state_dict()` has the checkpoint's keys (`model.transformer.blocks.0.q_proj.weight` ...)."""

    tp_plan: ClassVar[Mapping[str, str]] = {
        "model.transformer.blocks.*.q_proj": "colwise",
        "model.transformer.blocks.*.k_proj": "colwise",
        "model.transformer.blocks.*.v_proj": "colwise",
        "model.transformer.blocks.*.attn_out": "rowwise",
        "model.transformer.blocks.*.ff_proj": "colwise",
        "model.transformer.blocks.*.up_proj": "colwise",
        "model.transformer.blocks.*.ff_out": "rowwise",
        "model.transformer.ff_out": "colwise_gather_output",
    }

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.shape, self.spec = read_config(config)
        shape = self.shape
        modules: dict[str, nn.Module] = {
            "wte": nn.Embedding(shape.vocab, shape.width),
            "blocks": nn.ModuleList(Block(shape) for _ in range(shape.layers)),
            "ln_f": RMSNorm(shape.width, shape.eps),
        }
        if not shape.tied:
            modules["ff_out"] = linear(shape.width, shape.vocab, shape.bias)
        self.model = nn.ModuleDict({"transformer": nn.ModuleDict(modules)})
        self._input_scale = shape.width**0.5 if config.get("input_emb_norm") else 1.0
        self.logit_scale = shape.width**-0.5 if config.get("scale_logits") else 1.0

    def _module(self, name: str) -> Any:
        transformer: Any = self.model["transformer"]
        return transformer[name]

    def embedding(self) -> nn.Module:
        embedding: nn.Module = self._module("wte")
        return embedding

    def embed(self, tokens_BQ: Tensor) -> Tensor:
        return super().embed(tokens_BQ) * self._input_scale

    def blocks(self) -> list[TransformerLayer]:
        return list(self._module("blocks"))

    def final_norm(self) -> nn.Module:
        norm: nn.Module = self._module("ln_f")
        return norm

    def head(self) -> nn.Module:
        head: nn.Module = self._module("wte" if self.shape.tied else "ff_out")
        return head
