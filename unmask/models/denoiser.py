"""What the rest of the house knows about a model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unmask.context.plan import ForwardPlan
from unmask.context.pool import PAGE, KVPool

if TYPE_CHECKING:
    from unmask.models.layers import Network


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Facts about a checkpoint that decoding needs.

    Attributes:
        mask_id: the token that stands for "not written yet".
        eos_ids: the tokens that end an answer; the first is the filler behind it.
        vocab_size: rows of the output, padding rows included.
        max_length: most tokens of prompt and answer together.
        lookbehind: rows before a window that a forward must query so that the window's first token is predicted by its
            proper row: 0 for LLaDA (row i predicts token i), 1 for Dream (row i - 1 predicts token i).
        turn_ids: the tokens that end a chat turn, if the tokenizer has any; an answer ends there too, though the published
            decoders only look for EOS.
    """

    mask_id: int
    eos_ids: tuple[int, ...]
    vocab_size: int
    max_length: int
    lookbehind: int = 0
    turn_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoiser:
    """A network ready to decode, with its facts and its tokenizer (a transformers one, or None where there is none).

    `graphs` says whether block forwards may be replayed as CUDA graphs.
    """

    network: "Network"
    tokenizer: Any
    name: str
    graphs: bool = True

    @property
    def spec(self) -> ModelSpec:
        return self.network.spec

    @property
    def replayable(self) -> bool:
        """Whether a forward is work of the device alone, which a CUDA graph can hold."""
        return self.graphs and self.device.type == "cuda"

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def forward(self, tokens_N: Tensor, plan: ForwardPlan, pool: KVPool | None) -> Tensor:
        """Logits [R, V] of the tokens that the plan reads: row i always predicts token i."""
        logits: Tensor = self.network(tokens_N[None], plan, pool)
        return logits[0]

    @property
    def page_bytes(self) -> int:
        """Bytes of a page of key/value memory, in this process."""
        shape = self.network.shape
        return 2 * shape.layers * self.network.kv_heads * shape.head_size * PAGE * self.dtype.itemsize

    def pool(self, pages: int) -> KVPool:
        """Empty key/value memory of the model's shape."""
        shape = self.network.shape
        return KVPool(
            layers=shape.layers,
            pages=pages,
            kv_heads=self.network.kv_heads,
            head_size=shape.head_size,
            dtype=self.dtype,
            device=self.device,
        )
