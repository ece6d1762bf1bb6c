"""A network in the checkpoint form: names and tensors as on disk. For loading, training, adapters and transformers.

Shapes: B rows, Q query tokens, C model width, V vocabulary; N packed query tokens, R tokens to predict.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from unmask.context.plan import ForwardPlan
from unmask.context.pool import KVPool
from unmask.decode.spec import ModelSpec
from unmask.errors import ModelError
from unmask.kernels.rotary import frequencies, tables
from unmask.models import config as reading
from unmask.models.attention import block_causal
from unmask.models.config import Beside
from unmask.models.layers import AttentionInputs, Names, Part, RMSNorm, Tied, TransformerLayer, linear, put
from unmask.models.layout import layouts
from unmask.models.release import restore
from unmask.models.shape import Shape
from unmask.models.share import ALONE, Share


class Decoding(Protocol):
    """A form of a network that only decodes."""

    def hidden(self, tokens_N: Tensor, plan: ForwardPlan, pool: KVPool | None) -> Tensor: ...

    def project(self, hidden: Tensor) -> Tensor: ...


class Network(nn.Module):
    """A transformer that predicts masked tokens; `state_dict()` has the checkpoint's keys.

    A family is a subclass that reads its config.json (`read_config`) and says its facts as data.

    Attributes:
        names: the checkpoint's names of the modules.
        turn_ends: tokens that end a chat turn in its templates; only behind them comes EOS.
        tokenizers: tokenizer classes that are remote code -> the class of transformers that reads the same files.
        defaults: settings of a method that this family knows better than a preset does, by their dotted names.
        shape: of the whole network, also where this process holds a slice.
        share: what of it this process holds.
        config: what it was made from, completed.
        running: the form that decodes (models/running.py); None until it is made.
        weights: what the layers' matrices are quantised to (models/quantise.py); None: nothing is.
    """

    names: ClassVar[Names]
    turn_ends: ClassVar[tuple[str, ...]] = ()
    tokenizers: ClassVar[Mapping[str, str]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    shape: Shape
    spec: ModelSpec
    share: Share = ALONE
    embedding_scale: float = 1.0
    logit_scale: float = 1.0

    running: Decoding | None = None
    weights: str | None = None
    checkpointing: bool = False  # recompute each layer in the backward pass instead of keeping its activations

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = config
        try:
            self.shape, self.spec = self.read_config(config)
        except KeyError as missing:
            raise ModelError(f"config.json: the key {missing} is missing") from None
        shape, names = self.shape, self.names
        put(self, names.embedding, nn.Embedding(shape.vocab, shape.width))
        put(self, names.layers, nn.ModuleList(TransformerLayer(shape, names, number) for number in range(shape.layers)))
        put(self, names.norm, RMSNorm(shape.width, shape.eps))
        if not shape.tied:
            put(self, names.head, linear(shape.width, shape.vocab, shape.bias))
        self.register_state_dict_pre_hook(_only_whole)  # type: ignore[no-untyped-call]
        self.register_state_dict_post_hook(_as_published)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_joined)  # type: ignore[no-untyped-call]

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> tuple[Shape, ModelSpec]:
        """Shape and spec from a config.json. Raises ModelError on an unsupported variant, KeyError on a missing key."""
        raise NotImplementedError

    @staticmethod
    def complete(config: Mapping[str, Any], beside: Beside) -> Mapping[str, Any]:
        """The config with what this family's checkpoints say elsewhere: every end of text, unless a family knows more."""
        return reading.complete(config, beside)

    @property
    def tp_plan(self) -> Mapping[str, str]:
        """How processes may share the modules (models/parallel.py)."""
        return self.names.tp_plan()

    @property
    def kv_heads(self) -> int:
        """Key/value heads of this process."""
        return self.shape.kv_heads // self.share.processes

    def embedding(self) -> nn.Module:
        """The module that embeds tokens."""
        return self.get_submodule(self.names.embedding)

    def blocks(self) -> list[TransformerLayer]:
        """The layers, the first one first."""
        layers: Any = self.get_submodule(self.names.layers)
        return list(layers)

    def final_norm(self) -> nn.Module:
        """The norm behind the last layer."""
        return self.get_submodule(self.names.norm)

    def head(self) -> nn.Module:
        """The output matrix's module; the embedding where the two are tied."""
        return self.get_submodule(self.names.embedding if self.shape.tied else self.names.head)

    def output(self) -> Part:
        """States to logits, before `logit_scale`."""
        return Tied(self.embedding()) if self.shape.tied else self.head()

    def scaled(self, logits: Tensor) -> Tensor:
        """Logits as the checkpoint means them."""
        return logits if self.logit_scale == 1.0 else logits * self.logit_scale

    def require_whole(self) -> None:
        """Raises ModelError unless this process holds the checkpoint's tensors as they are."""
        if self.share.processes > 1:
            raise ModelError(
                f"this process holds slice {self.share.rank + 1} of {self.share.processes} of the model: "
                "load it without tensor_parallel to train or save it"
            )
        self.require_plain()

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters by their names in the network -> the checkpoint's tensors: those of experts apart, as views."""
        made: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            for piece in layouts(self, name)[0]:
                made[piece.source] = tensor if piece.put is None else tensor[piece.put]
        return made

    def require_plain(self) -> None:
        """Put back the tensors that were given up for the running form. Raises ModelError where they cannot be made again."""
        if self.weights is not None:
            raise ModelError(
                f"the weights are {self.weights}, which only decode: load the model that they were made of, without weights, "
                "to train, convert or save it"
            )
        if self.running is None or not any(tensor.is_meta for tensor in self.parameters()):
            return
        if not restore(self):
            raise ModelError(
                "the model's plain weights were given up for the form that decodes: load it again to train or save it"
            )
        self.running = None

    def require_contiguous(self) -> None:
        """Tensors that lie strided in merged ones get memory of their own; transformers saves no others."""
        strided = [parameter for parameter in self.parameters() if not parameter.is_contiguous()]
        for parameter in strided:
            parameter.data = parameter.contiguous()
        if strided:
            self.running = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Called by `to`, `double` and their like: the running form must be made from the new tensors.
        self.require_plain()
        self.running = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def train(self, mode: bool = True) -> Self:
        """As of any module; what is trained are the plain tensors."""
        if mode:
            self.require_plain()
        return super().train(mode)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As of any module; an optimizer must be given the plain tensors."""
        if requires_grad:
            self.require_plain()
        return super().requires_grad_(requires_grad)

    def embed(self, tokens_BQ: Tensor) -> Tensor:
        """The states [B, Q, C] that the first layer is given; in place of tokens, rows [B, Q, C] of the embedding."""
        embedded: Tensor = tokens_BQ if tokens_BQ.is_floating_point() else self.embedding()(tokens_BQ)
        return embedded if self.embedding_scale == 1.0 else embedded * self.embedding_scale

    def project(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states: [..., C] to [..., V]."""
        return self.scaled(self.output()(hidden))

    def predicting(self, read: Tensor, before: Tensor | None = None) -> Tensor:
        """Index of the row whose output predicts each token of `read`.

        With a lookbehind that is the row of the token before, which `before` says; None: of one sequence, where the first
        token has none and takes its own row, which is not aligned.
        """
        if not self.spec.lookbehind:
            return read
        return (read - 1).clamp(min=0) if before is None else before

    def hidden(
        self,
        tokens_BQ: Tensor,
        plan: ForwardPlan | None = None,
        pool: KVPool | None = None,
        *,
        positions_Q: Tensor | None = None,
        mask_QQ: Tensor | None = None,
    ) -> Tensor:
        """The last layer's normalised states [B, Q, C]: of whole sequences, or of a plan's packed queries as one row [1, N].

        Whole sequences stand at positions 0, 1, ... and attend as `spec.block` says. A training that lays several copies of
        a row side by side gives its own positions, int64, and mask, bool, True where a query sees a key.
        """
        if positions_Q is None:
            positions_Q = torch.arange(tokens_BQ.shape[1], device=tokens_BQ.device) if plan is None else plan.positions_N
        if mask_QQ is None and plan is None and self.spec.block is not None:
            mask_QQ = block_causal(positions_Q, self.spec.block)
        self.require_plain()
        x = self.embed(tokens_BQ)
        cos, sin = tables(positions_Q[None], frequencies(self.shape.rotary, self.shape.theta, x.dtype, x.device))
        inputs = AttentionInputs(cos, sin, plan, pool, mask_QQ)
        for number, layer in enumerate(self.blocks()):
            args = (x, number, inputs)
            x = recompute(layer, *args, use_reentrant=False) if self.checkpointing else layer(*args)
        normed: Tensor = self.final_norm()(x)
        return normed

    def forward(self, tokens_BQ: Tensor, plan: ForwardPlan | None = None, pool: KVPool | None = None) -> Tensor:
        """Logits [1, R, V] of the tokens that a plan reads: row i predicts token `plan.read_R[i]`, whatever the alignment.

        Without a plan: the raw logits [B, Q, V] of every row of the whole sequences, in the checkpoint's own alignment.
        """
        hidden = self.hidden(tokens_BQ, plan, pool)
        return self.project(hidden if plan is None else hidden[:, self.predicting(plan.read_R, plan.before_R)])


def _only_whole(network: nn.Module, prefix: str, keep_vars: bool) -> None:
    """What `state_dict` asks first."""
    assert isinstance(network, Network)
    network.require_whole()


def _as_published(network: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    """Of the network itself the checkpoint's names; inside a module that is trained, the parameters' own."""
    assert isinstance(network, Network)
    if not prefix:
        made = network.published(state)
        state.clear()
        state.update(made)


def _joined(network: nn.Module, state: dict[str, Tensor], prefix: str, *others: object) -> None:
    """The inverse, before a network takes a state in."""
    for name, parameter in network.named_parameters():
        pieces = layouts(network, name)[0]
        if pieces[0].put is not None and all(f"{prefix}{piece.source}" in state for piece in pieces):
            whole = torch.empty_like(parameter)
            for piece in pieces:
                whole.data[piece.put or ()] = state.pop(f"{prefix}{piece.source}")
            state[f"{prefix}{name}"] = whole
