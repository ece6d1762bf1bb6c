"""One transformer layer for every family: pre-norm, RMSNorm, rotary, grouped heads, a gated feed-forward part.

A layer is made of parts (`Parts`), and its forward is written once, over them. Families differ by data: the sizes
(`Shape`) and the names under which their checkpoints keep the modules (`Names`).
Shapes: B rows, Q query tokens, C model width, D head size; N packed query tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from unmask.context.plan import ForwardPlan
from unmask.context.pool import KVPool
from unmask.kernels import accelerated
from unmask.kernels.gated import silu_times
from unmask.kernels.norm import add_rms_norm, rms_norm
from unmask.kernels.rotary import HeadNorms, rotate
from unmask.models.attention import attend, attend_packed
from unmask.models.experts import Experts, Router
from unmask.models.shape import MoE, Shape


class Part(Protocol):
    """States [B, Q, channels] to states."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


class Projections(Protocol):
    """States [B, Q, C] to the channels of queries, keys and values, each [B, Q, heads * D]."""

    def __call__(self, x: Tensor, /) -> tuple[Tensor, Tensor, Tensor]: ...


class Adds:
    """A part that can add what it makes to other states while it makes it."""

    def onto(self, states: Tensor, x: Tensor) -> Tensor:
        """`states` plus what the part makes of x."""
        raise NotImplementedError


def added(states: Tensor, part: Part, x: Tensor) -> Tensor:
    """`states` plus what a part makes of x, in one pass where the part can."""
    return part.onto(states, x) if isinstance(part, Adds) else states + part(x)


def onward(states: Tensor, part: Part, x: Tensor, norm: Part) -> tuple[Tensor, Tensor]:
    """`states` plus what a part makes of x, and the norm of the sum: from one part of a layer to the next."""
    if isinstance(norm, RMSNorm) and accelerated(states, norm.weight):
        return add_rms_norm(states, part(x), norm.weight, norm.eps)
    states = added(states, part, x)
    return states, norm(states)


Read = Callable[[nn.Module], tuple[Any, ...]]  # a layer to some of its modules, as they are now


class RMSNorm(nn.Module):
    """Root-mean-square norm (arXiv 1910.07467), computed in fp32 or better."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Separate(NamedTuple):
    """Queries, keys and values from three matrices."""

    q: Part
    k: Part
    v: Part

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q(x), self.k(x), self.v(x)


class Fused(NamedTuple):
    """Queries, keys and values from one matrix whose rows are all query heads, then all key heads, then all value heads."""

    qkv: Part
    heads: int  # query heads for one key head

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made = self.qkv(x)
        keys = made.shape[-1] // (self.heads + 2)
        q, k, v = torch.split(made, [self.heads * keys, keys, keys], dim=-1)
        return q, k, v


class SwiGLU(NamedTuple):
    """A dense feed-forward part (arXiv 2002.05202): down(silu(gate(x)) * up(x))."""

    gate: Part
    up: Part
    down: Part

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(silu_times(self.gate(x), self.up(x)))


class MergedSwiGLU(NamedTuple):
    """The same where gate and up are one matrix, whose rows are those of the gate and then of up."""

    gate_up: Part
    down: Part

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(silu_times(gate, up))


class Mixed(Protocol):
    """Tokens [N, C], the experts [N, K] that each has chosen and their weights [N, K], to the weighted sum [N, C].

    What comes of a part beside the experts, `beside_NC`, is added to it.
    """

    def __call__(self, x_NC: Tensor, experts_NK: Tensor, weights_NK: Tensor, beside_NC: Tensor | None, /) -> Tensor: ...


class Mixture(NamedTuple):
    """A feed-forward part of experts, and of a dense part beside them that every token goes through, if there is one."""

    router: Router
    experts: Mixed
    shared: Part | None

    def __call__(self, x: Tensor) -> Tensor:
        tokens_NC = x.flatten(0, -2)
        experts_NK, weights_NK = self.router(x)
        if isinstance(self.shared, Adds):
            return self.shared.onto(self.experts(tokens_NC, experts_NK, weights_NK, None).view_as(x), x)
        beside_NC = None if self.shared is None else self.shared(x).flatten(0, -2)
        return self.experts(tokens_NC, experts_NK, weights_NK, beside_NC).view_as(x)


class AttentionInputs(NamedTuple):
    """What all layers of a forward share: rotary tables, and which keys a query sees.

    Attributes:
        cos_BQR, sin_BQR: of the rotated channels R of a head.
        plan, pool: of packed queries; None: whole sequences that attend to themselves.
        mask: without a plan, [Q, Q], True where a query sees a key; None shows every key.
    """

    cos_BQR: Tensor
    sin_BQR: Tensor
    plan: ForwardPlan | None = None
    pool: KVPool | None = None
    mask: Tensor | None = None


class Tied(NamedTuple):
    """An output matrix that is the embedding."""

    embedding: nn.Module

    @property
    def weight(self) -> Tensor:
        """The embedding's, [V, C]."""
        weight: Any = self.embedding.weight
        return weight  # type: ignore[no-any-return]

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


class Parts(NamedTuple):
    """What a layer is made of, by role; calling it is the layer's forward.

    Each part is anything that can be called, so that one of them can be exchanged for a merged, quantised or packed
    one, and the feed-forward part for a mixture of experts.
    """

    head_size: int
    attention_norm: Part
    qkv: Projections
    q_norm: Part | None
    k_norm: Part | None
    o: Part
    mlp_norm: Part
    feed_forward: Part

    def __call__(self, x: Tensor, number: int, inputs: AttentionInputs) -> Tensor:
        """States [B, Q, C] to states; `number` is the layer's place in the pool."""
        x, normed = self.attend(x, self.attention_norm(x), number, inputs)
        return added(x, self.feed_forward, normed)

    def attend(
        self, x: Tensor, normed: Tensor, number: int, inputs: AttentionInputs, rows_R: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The first half: from states and their norm to states behind the attention and their norm.

        `rows_R` are the places among Q whose states are wanted, [B, R, C]; None: all.
        """
        q, k, v = (torch.unflatten(heads, -1, (-1, self.head_size)) for heads in self.qkv(normed))
        joined = self._whole(q, k, v, inputs) if inputs.plan is None else self._packed(q, k, v, number, inputs)
        if rows_R is not None:
            x, joined = x.index_select(1, rows_R), joined.index_select(1, rows_R)
            if len(rows_R) == 0:  # keys and values alone were wanted
                return x, x
        elif joined.shape[1] < x.shape[1]:
            joined = nn.functional.pad(joined, (0, 0, 0, x.shape[1] - joined.shape[1]))
        return onward(x, self.o, joined, self.mlp_norm)

    def _whole(self, q: Tensor, k: Tensor, v: Tensor, inputs: AttentionInputs) -> Tensor:
        """Whole sequences [B, Q, heads, D] that attend to themselves; the heads' channels one behind the other."""
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = (rotate(heads.transpose(1, 2), inputs.cos_BQR, inputs.sin_BQR) for heads in (q, k))
        return attend(q, k, v.transpose(1, 2), inputs.mask).transpose(1, 2).flatten(2)

    def _packed(self, q: Tensor, k: Tensor, v: Tensor, number: int, inputs: AttentionInputs) -> Tensor:
        """Packed queries [1, N, heads, D] that attend as a plan says; likewise."""
        assert inputs.plan is not None
        queries = len(inputs.plan.positions_N)  # rows behind them are only there to fill a layout
        q, k, v = (heads[0, :queries] for heads in (q, k, v))
        tables = inputs.cos_BQR[0, :queries], inputs.sin_BQR[0, :queries]
        attended = attend_packed(q, k, v, *tables, self._head_norms, inputs.plan, inputs.pool, number)
        return attended.flatten(1)[None]

    @property
    def _head_norms(self) -> HeadNorms | None:
        if self.q_norm is None or self.k_norm is None:
            return None
        assert isinstance(self.q_norm, RMSNorm), "heads are normalised by RMS"
        assert isinstance(self.k_norm, RMSNorm), "heads are normalised by RMS"
        return HeadNorms(self.q_norm.weight, self.k_norm.weight, self.q_norm.eps)


class Names(NamedTuple):
    """The dotted names under which a family's checkpoints keep their modules: those of the network, then a layer's own."""

    embedding: str
    layers: str
    norm: str
    head: str
    attention_norm: str
    qkv: tuple[str, ...]  # three names, or the one of a fused matrix
    o: str
    mlp_norm: str
    mlp: tuple[str, str, str]  # gate, up, down
    q_norm: str = ""
    k_norm: str = ""
    router: str = "mlp.gate"
    experts: str = "mlp.experts"
    shared: tuple[str, ...] = ()  # gate, up, down of the part beside the experts, where a family can have one

    def tp_plan(self) -> Mapping[str, str]:
        """How processes may share the modules (models/parallel.py)."""
        inside = {self.o: "rowwise", self.experts: "experts"}
        inside |= dict.fromkeys(self.qkv, "colwise" if len(self.qkv) == 3 else "fused_colwise")
        for gate, up, down in (self.mlp, *([self.shared] if self.shared else [])):
            inside |= {gate: "colwise", up: "colwise", down: "rowwise"}
        return {f"{self.layers}.*.{name}": style for name, style in inside.items()} | {self.head: "colwise_gather_output"}


# Qwen2's and Qwen3's names, which most families have taken over; the latter's norms of single heads included.
QWEN = Names(
    embedding="model.embed_tokens",
    layers="model.layers",
    norm="model.norm",
    head="lm_head",
    attention_norm="input_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    o="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    mlp=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
)


def linear(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias)


def put(owner: nn.Module, name: str, module: nn.Module) -> None:
    """Give a module the dotted name that its checkpoint has for it, below `owner`.

    >>> layer = nn.Module()
    >>> put(layer, "mlp.gate_proj", linear(2, 2, bias=False))
    >>> list(layer.state_dict())
    ['mlp.gate_proj.weight']
    """
    *path, leaf = name.split(".")
    for step in path:
        if not hasattr(owner, step):
            owner.add_module(step, nn.Module())
        owner = owner.get_submodule(step)
    owner.add_module(leaf, module)


class TransformerLayer(nn.Module):
    """One layer in the checkpoint form: its modules under the checkpoint's names.

    Called as a module, so that what hooks into modules (FSDP, which gathers one layer at a time) sees every layer.
    """

    def __init__(self, shape: Shape, names: Names, number: int) -> None:
        super().__init__()
        self.shape, self.names = shape, names
        self.mixed = shape.moe is not None and shape.moe.layers[number]
        put(self, names.attention_norm, RMSNorm(shape.width, shape.eps))
        put(self, names.mlp_norm, RMSNorm(shape.width, shape.eps))
        outputs = (shape.attended, shape.remembered, shape.remembered)
        for name, rows in zip(names.qkv, outputs if len(names.qkv) == 3 else (sum(outputs),), strict=True):
            put(self, name, linear(shape.width, rows, shape.qkv_bias))
        if shape.qk_norm:
            put(self, names.q_norm, RMSNorm(shape.head_size, shape.eps))
            put(self, names.k_norm, RMSNorm(shape.head_size, shape.eps))
        put(self, names.o, linear(shape.attended, shape.width, shape.bias))
        others = [*names.qkv, *((names.q_norm, names.k_norm) if shape.qk_norm else ())]
        self._attention = attrgetter(names.attention_norm, names.o, names.mlp_norm, *others)
        self._feed_forward = self._put_mixture(shape.moe) if shape.moe and self.mixed else self._put_dense(names.mlp, shape.mlp)

    def _put_dense(self, names: Sequence[str], hidden: int) -> Read:
        gate, up, down = names
        put(self, gate, linear(self.shape.width, hidden, self.shape.bias))
        put(self, up, linear(self.shape.width, hidden, self.shape.bias))
        put(self, down, linear(hidden, self.shape.width, self.shape.bias))
        return attrgetter(gate, up, down)

    def _put_mixture(self, moe: MoE) -> Read:
        names, width = self.names, self.shape.width
        put(self, names.router, Router(width, moe))
        put(self, names.experts, Experts(width, moe))
        if moe.shared:
            self._put_dense(names.shared, moe.shared)
        return attrgetter(names.router, names.experts, *(names.shared if moe.shared else ()))

    def parts(self) -> Parts:
        """The modules by role, as they are now: adapters and slices take the place of some."""
        attention_norm, o, mlp_norm, *others = self._attention(self)
        projections = len(self.names.qkv)
        q_norm, k_norm = others[projections:] or (None, None)
        return Parts(
            head_size=self.shape.head_size,
            attention_norm=attention_norm,
            qkv=Separate(*others[:3]) if projections == 3 else Fused(others[0], self.shape.heads // self.shape.kv_heads),
            q_norm=q_norm,
            k_norm=k_norm,
            o=o,
            mlp_norm=mlp_norm,
            feed_forward=self._mixture(*self._feed_forward(self)) if self.mixed else SwiGLU(*self._feed_forward(self)),
        )

    @staticmethod
    def _mixture(router: Router, experts: Experts, *shared: Part) -> Mixture:
        return Mixture(router, experts, SwiGLU(*shared) if shared else None)

    def forward(self, x: Tensor, number: int, inputs: AttentionInputs) -> Tensor:
        """States [B, Q, C] to states; `number` is the layer's place in the pool."""
        return self.parts()(x, number, inputs)


def init_weights(network: nn.Module, *, std: float, generator: torch.Generator) -> None:
    """Fill every matrix with N(0, std^2), every norm with ones and every bias with zeros: for training and for toys."""
    for name, parameter in network.named_parameters():
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.normal_(0.0, std, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
