"""A model as the rest of the package sees it: its facts, its tokenizer, and forwards over a plan."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from unmask.context.plan import ForwardPlan
from unmask.context.pool import PAGE, KVPool
from unmask.decode.commit_head import CommitHead
from unmask.decode.spec import ModelSpec as ModelSpec
from unmask.errors import ConfigError
from unmask.kernels import accelerated
from unmask.models.network import Decoding, Network
from unmask.models.own import Own
from unmask.models.prompting import Prompting
from unmask.models.running import Step, running


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoiser:
    """A network ready to decode, with its facts and its tokenizer (a transformers one, or None where there is none).

    Attributes:
        network: the checkpoint form, for training and for whatever reads or writes weights.
        graphs: whether forwards may be replayed as CUDA graphs.
        steps: how the form that decodes is made from it (models/running.py).
        own: what its checkpoint says about decoding it (models/own.py).
        kv: the type in which keys and values are kept, where it is not that of the weights.
        head: the commit head that was trained for these weights, if there is one (models/commit_head.py).
        prompting: how text becomes a prompt (engine/prompt.py).
    """

    network: Network
    tokenizer: Any
    name: str
    graphs: bool = True
    steps: tuple[Step, ...] = ()
    own: Own = field(default_factory=Own)
    head: CommitHead | None = None
    kv: torch.dtype | None = None
    prompting: Prompting = field(default_factory=Prompting)

    @property
    def spec(self) -> ModelSpec:
        return self.network.spec

    @property
    def weights(self) -> str | None:
        """What the layers' matrices are quantised to: "int8", "int4" or "fp8"; None: they are plain numbers of `dtype`."""
        return self.network.weights

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Settings of a method that this model knows better than a preset does, by their dotted names.

        A block-causal model has its own block length and an exact cache, and sees nothing that could be pruned or refreshed.
        What its checkpoint says comes last.
        """
        return self.defaults_of("")

    def defaults_of(self, preset: str) -> Mapping[str, Any]:
        """The same with what the checkpoint says of one preset."""
        grid: dict[str, Any] = {}
        if self.spec.block is not None:
            grid = {"block_length": self.spec.block, "cache": "block", "suffix": None, "refresh": None}
        return {**grid, **self.network.defaults, **self.own.of(preset)}

    @property
    def has_template(self) -> bool:
        """Whether a text is put into the tokenizer's chat template."""
        return self.prompting.chat_template and getattr(self.tokenizer, "chat_template", None) is not None

    def asked(self, *, chat_template: bool | None = None, add_bos: bool | None = None) -> Self:
        """The same model, asked with or without its chat template and a BOS token; None: as it is.

        Raises ConfigError for a BOS token that the tokenizer does not have.
        """
        given = {"chat_template": chat_template, "add_bos": add_bos}
        prompting = replace(self.prompting, **{name: value for name, value in given.items() if value is not None})
        if prompting.add_bos and getattr(self.tokenizer, "bos_token_id", None) is None:
            what = "it has no tokenizer" if self.tokenizer is None else "its tokenizer has no bos_token"
            raise ConfigError(f"{self.name} cannot be asked behind a BOS token, because {what}: leave add_bos out")
        return replace(self, prompting=prompting)

    @property
    def running(self) -> Decoding:
        """The form that decodes, made by the first call."""
        return running(self.network, self.steps)

    def with_block(self, length: int) -> Self:
        """The same model, its weights shared, with another block length than its checkpoint names: as if it were trained so.

        Raises ConfigError where there are no blocks or the network itself depends on their length.
        """
        own = self.spec.block
        if own is None:
            raise ConfigError(f"{self.name} attends to every token: it has no block length that could be another than its own")
        if length == own:
            return self
        if length < 1:
            raise ConfigError(f"a block length must be a whole number of at least 1, got {length}")
        moe = self.network.shape.moe
        if moe is not None and moe.capacity is not None:
            raise ConfigError(f"{self.name} chooses experts per block of {own} tokens: it runs with no other block length")
        self.running  # noqa: B018 - made before the copy, so that both have the same one
        warnings.warn(f"{self.name} was trained with blocks of {own} tokens and runs with {length}", stacklevel=2)
        network = copy.copy(self.network)
        network.spec = replace(network.spec, block=length)
        return replace(self, network=network)

    @property
    def replayable(self) -> bool:
        """Whether a forward is work of the device alone, which a CUDA graph can hold.

        Only where kernels run: the plain form copies what a row may see at most, and a graph's row may see the longest.
        """
        return self.graphs and self.device.type == "cuda" and self.accelerated

    @property
    def accelerated(self) -> bool:
        """Whether kernels of ours compute its forwards."""
        return accelerated(next(self.network.parameters()))

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def forward(self, tokens_N: Tensor, plan: ForwardPlan, pool: KVPool | None) -> Tensor:
        """Logits [R, V] of the tokens that the plan reads: row i always predicts token i."""
        return self.project(self.states(tokens_N, plan, pool))

    def states(self, tokens_N: Tensor, plan: ForwardPlan, pool: KVPool | None) -> Tensor:
        """The last hidden states [R, C] of the rows that predict what the plan reads; `project` is called next."""
        return self.running.hidden(tokens_N, plan, pool)

    def project(self, hidden_RC: Tensor) -> Tensor:
        """The logits [R, V] of such states."""
        return self.running.project(hidden_RC)

    def predict(
        self, tokens_N: Tensor, plan: ForwardPlan, pool: KVPool | None, *, hidden: bool
    ) -> tuple[Tensor, Tensor | None]:
        """`forward`, and with `hidden` the last layer's normalised states [R, C] that its logits are made of."""
        if not hidden:
            return self.forward(tokens_N, plan, pool), None
        hidden_RC = self.states(tokens_N, plan, pool)
        return self.project(hidden_RC), hidden_RC

    @property
    def page_bytes(self) -> int:
        """Bytes of a page of key/value memory, in this process."""
        shape = self.network.shape
        return 2 * shape.layers * self.network.kv_heads * shape.head_size * PAGE * (self.kv or self.dtype).itemsize

    def pool(self, pages: int) -> KVPool:
        """Empty key/value memory of the model's shape."""
        shape = self.network.shape
        return KVPool(
            layers=shape.layers,
            pages=pages,
            kv_heads=self.network.kv_heads,
            head_size=shape.head_size,
            dtype=self.dtype,
            stored=self.kv,
            device=self.device,
        )
