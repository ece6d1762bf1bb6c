"""Dream-v0 7B, Base and Instruct (arXiv 2508.15487), and checkpoints of that layout (DiffuCoder, for one).

Facts come from the checkpoint's config.json; module names are the checkpoint's own, so no weight map is needed.
Row i - 1 of the output predicts token i: that is dealt with here and nowhere else.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from unmask.errors import ModelError
from unmask.models.denoiser import ModelSpec
from unmask.models.layers import Network, Parts, RMSNorm, Shape, TransformerLayer, linear, read_ids, read_theta


def read_config(config: Mapping[str, Any]) -> tuple[Shape, ModelSpec]:
    """Shape and spec from a Dream config.json. Raises ModelError on a missing key or an unsupported variant."""
    if config.get("hidden_act", "silu") != "silu":
        raise ModelError(f"config.json: hidden_act = {config['hidden_act']!r} is not supported, only 'silu'")
    if config.get("use_sliding_window"):
        raise ModelError("config.json: use_sliding_window is not supported")
    try:
        shape = Shape(
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            mlp=config["intermediate_size"],
            vocab=config["vocab_size"],
            theta=read_theta(config),
            eps=config.get("rms_norm_eps", 1e-6),
            qkv_bias=config.get("attention_bias", True),
            bias=False,
            tied=bool(config.get("tie_word_embeddings")),
        )
        spec = ModelSpec(
            mask_id=read_ids(config, "mask_token_id", shape.vocab)[0],
            eos_ids=read_ids(config, "eos_token_id", shape.vocab),
            vocab_size=shape.vocab,
            max_length=config["max_position_embeddings"],
            lookbehind=1,
        )
    except KeyError as missing:
        raise ModelError(f"config.json: the key {missing} is missing") from None
    return shape, spec


class Attention(nn.Module):
    """The four projections of a layer, named as in the checkpoint."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        kv_width = shape.kv_heads * shape.head_size
        self.q_proj = linear(shape.width, shape.width, shape.qkv_bias)
        self.k_proj = linear(shape.width, kv_width, shape.qkv_bias)
        self.v_proj = linear(shape.width, kv_width, shape.qkv_bias)
        self.o_proj = linear(shape.width, shape.width, False)


class MLP(nn.Module):
    """The three projections of a layer's feed-forward part, named as in the checkpoint."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = linear(shape.width, shape.mlp, False)
        self.up_proj = linear(shape.width, shape.mlp, False)
        self.down_proj = linear(shape.mlp, shape.width, False)


class Layer(TransformerLayer):
    """One layer, with the checkpoint's module names."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape.head_size)
        self.self_attn = Attention(shape)
        self.mlp = MLP(shape)
        self.input_layernorm = RMSNorm(shape.width, shape.eps)
        self.post_attention_layernorm = RMSNorm(shape.width, shape.eps)

    def parts(self) -> Parts:
        return Parts(
            attention_norm=self.input_layernorm,
            q=self.self_attn.q_proj,
            k=self.self_attn.k_proj,
            v=self.self_attn.v_proj,
            o=self.self_attn.o_proj,
            mlp_norm=self.post_attention_layernorm,
            gate=self.mlp.gate_proj,
            up=self.mlp.up_proj,
            down=self.mlp.down_proj,
        )


class Backbone(nn.Module):
    """Embedding, layers and final norm, named as in the checkpoint."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width, shape.eps)


class Dream(Network):
    """The network; `state_dict()` has the checkpoint's keys (`model.layers.0.self_attn.q_proj.weight` ...)."""

    tp_plan: ClassVar[Mapping[str, str]] = {
        "model.layers.*.self_attn.q_proj": "colwise",
        "model.layers.*.self_attn.k_proj": "colwise",
        "model.layers.*.self_attn.v_proj": "colwise",
        "model.layers.*.self_attn.o_proj": "rowwise",
        "model.layers.*.mlp.gate_proj": "colwise",
        "model.layers.*.mlp.up_proj": "colwise",
        "model.layers.*.mlp.down_proj": "rowwise",
        "lm_head": "colwise_gather_output",
    }

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.shape, self.spec = read_config(config)
        self.model = Backbone(self.shape)
        if not self.shape.tied:
            self.lm_head = linear(self.shape.width, self.shape.vocab, False)

    def embedding(self) -> nn.Module:
        return self.model.embed_tokens

    def blocks(self) -> list[TransformerLayer]:
        return list(self.model.layers)  # type: ignore[arg-type]

    def final_norm(self) -> nn.Module:
        return self.model.norm

    def head(self) -> nn.Module:
        return self.model.embed_tokens if self.shape.tied else self.lm_head

    def predicting(self, read: Tensor, first: Tensor | int = 0) -> Tensor:
        """The row before each token. A query's first token has none and takes its own, which is not aligned."""
        return (read - 1).clamp(min=first)
