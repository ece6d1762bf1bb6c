"""The transformer that LLaDA and Dream share: pre-norm, RMSNorm, rotary, grouped heads, SwiGLU, no causal mask.

A model's own file names its modules as its checkpoints do; this file only says how they are joined.
Shapes: B rows, Q query tokens, C model width, V vocabulary; N packed query tokens, R tokens to predict.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint as recompute

from unmask.context.plan import ForwardPlan
from unmask.context.pool import KVPool
from unmask.errors import ModelError
from unmask.models.attention import attend, attend_packed, rotary, rotate
from unmask.models.denoiser import ModelSpec
from unmask.models.parallel import ALONE, Share


class RMSNorm(nn.Module):
    """Root-mean-square norm (arXiv 1910.07467), computed in fp32 or better."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        precise = precise * torch.rsqrt(precise.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * precise.to(x.dtype)


class Shape(NamedTuple):
    """The numbers that both models' config files hold under different names."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    theta: float
    eps: float
    qkv_bias: bool
    bias: bool
    tied: bool

    @property
    def head_size(self) -> int:
        return self.width // self.heads


def read_ids(config: Mapping[str, Any], key: str, vocabulary: int) -> tuple[int, ...]:
    """The token id, or ids, under `key` of a config.json. Raises ModelError if there is none or it is no row."""
    given = config[key]
    ids = tuple(given) if isinstance(given, list) else (given,)
    for token in ids or (None,):
        if not isinstance(token, int) or not 0 <= token < vocabulary:
            raise ModelError(f"config.json: {key} = {given!r} is not a token id from 0 to {vocabulary - 1}")
    return ids


def read_theta(config: Mapping[str, Any]) -> float:
    """The rotary base, wherever this version of transformers wrote it. Raises ModelError for scaled rotary embeddings."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ModelError(f"config.json: the rope type {kind!r} is not supported, only 'default'")
    return float(config.get("rope_theta") or rope.get("rope_theta") or 10000.0)


class Parts(NamedTuple):
    """The modules of one layer, by the role they play."""

    attention_norm: nn.Module
    q: nn.Module
    k: nn.Module
    v: nn.Module
    o: nn.Module
    mlp_norm: nn.Module
    gate: nn.Module
    up: nn.Module
    down: nn.Module


class TransformerLayer(nn.Module):
    """One layer: attention and MLP, each behind a norm. Subclasses own the modules, named as their checkpoints name them.

    Called as a module, so that what hooks into modules (FSDP, which gathers one layer at a time) sees every layer.
    """

    def __init__(self, head_size: int) -> None:
        super().__init__()
        self.head_size = head_size

    @abstractmethod
    def parts(self) -> Parts: ...

    def forward(
        self, x: Tensor, number: int, cos: Tensor, sin: Tensor, plan: ForwardPlan | None, pool: KVPool | None
    ) -> Tensor:
        """States [B, Q, C] to states; `number` is the layer's place in the pool."""
        parts, size = self.parts(), self.head_size
        normed = parts.attention_norm(x)
        q = rotate(parts.q(normed).unflatten(-1, (-1, size)).transpose(1, 2), cos, sin)
        k = rotate(parts.k(normed).unflatten(-1, (-1, size)).transpose(1, 2), cos, sin)
        v = parts.v(normed).unflatten(-1, (-1, size)).transpose(1, 2)
        heard = attend(q, k, v) if plan is None else attend_packed(q[0], k[0], v[0], plan, pool, number)[None]
        x = x + parts.o(heard.transpose(1, 2).flatten(2))
        normed = parts.mlp_norm(x)
        widened: Tensor = parts.down(silu(parts.gate(normed)) * parts.up(normed))
        return x + widened


def linear(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias)


class Network(nn.Module):
    """A bidirectional transformer that predicts the tokens a plan asks for.

    Subclasses own the modules and hand them out through `embedding`, `blocks`, `final_norm` and `head`.

    `tp_plan` says how processes may share the modules (models/parallel.py), `share` what of them is this process's. `shape`
    is always the whole network's.
    """

    shape: Shape
    spec: ModelSpec
    tp_plan: ClassVar[Mapping[str, str]]
    share: Share = ALONE
    logit_scale: float = 1.0

    checkpointing: bool = False  # recompute each layer in the backward pass instead of keeping its activations

    @property
    def kv_heads(self) -> int:
        """Key/value heads of this process."""
        return self.shape.kv_heads // self.share.processes

    @abstractmethod
    def embedding(self) -> nn.Module: ...

    def embed(self, tokens_BQ: Tensor) -> Tensor:
        embedded: Tensor = self.embedding()(tokens_BQ)
        return embedded

    @abstractmethod
    def blocks(self) -> list[TransformerLayer]: ...

    @abstractmethod
    def final_norm(self) -> nn.Module: ...

    @abstractmethod
    def head(self) -> nn.Module:
        """The output matrix's module; the embedding where the two are tied."""

    def project(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states: [..., C] to [..., V]."""
        head: Any = self.head()
        logits: Tensor = nn.functional.linear(hidden, head.weight) if self.shape.tied else head(hidden)
        return logits if self.logit_scale == 1.0 else logits * self.logit_scale

    def predicting(self, read: Tensor, first: Tensor | int = 0) -> Tensor:
        """Index of the row whose output predicts each token of `read`: the token's own. `first` is where its query begins."""
        return read

    def hidden(self, tokens_BQ: Tensor, plan: ForwardPlan | None = None, pool: KVPool | None = None) -> Tensor:
        """The last layer's normalised states [B, Q, C]: of whole sequences from position 0, or of a plan's packed queries.

        Packed queries are one row, [1, N].
        """
        positions_Q = torch.arange(tokens_BQ.shape[1], device=tokens_BQ.device) if plan is None else plan.positions_N
        x = self.embed(tokens_BQ)
        cos, sin = rotary(positions_Q[None], self.shape.head_size, self.shape.theta, x.dtype)
        for number, block in enumerate(self.blocks()):
            inputs = (x, number, cos, sin, plan, pool)
            x = recompute(block, *inputs, use_reentrant=False) if self.checkpointing else block(*inputs)
        normed: Tensor = self.final_norm()(x)
        return normed

    def forward(self, tokens_BQ: Tensor, plan: ForwardPlan | None = None, pool: KVPool | None = None) -> Tensor:
        """Logits [1, R, V] of the tokens that a plan reads: row i predicts token `plan.read_R[i]`, whatever the alignment.

        Without a plan: the raw logits [B, Q, V] of every row of the whole sequences, in the checkpoint's own alignment.
        """
        hidden = self.hidden(tokens_BQ, plan, pool)
        return self.project(hidden if plan is None else hidden[:, self.predicting(plan.read_R, plan.first_R)])


def init_weights(network: nn.Module, *, std: float, generator: torch.Generator) -> None:
    """Fill every matrix with N(0, std^2), every norm with ones and every bias with zeros: for training and for toys."""
    for name, parameter in network.named_parameters():
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.normal_(0.0, std, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
