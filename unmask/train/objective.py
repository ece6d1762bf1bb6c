"""The objective of a fine-tuning as a value: which tokens are masked, which are asked, and the weight of each.

The functions behind it are pure (train/noise.py, train/loss.py); train/batches.py applies them to the rows of a step.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unmask.decode.settings import number, whole
from unmask.decode.spec import ModelSpec
from unmask.errors import ConfigError, unknown
from unmask.train import noise

BLOCK = 32  # R2-dLLM's
WORDS = {"objective": ("block", "masked"), "window": ("block", "answer")}


class Rows(NamedTuple):
    """Examples as tensors.

    Attributes:
        tokens_BT: ids, EOS to the end.
        answer_BT: bool, may be masked: every answer, and the EOS behind the last one.
        blocks_B: blocks of the last answer up to the one that holds the first EOS.
        steps_BT: the forward, from 1, that wrote each token; 0 where none is known.
    """

    tokens_BT: Tensor
    answer_BT: Tensor
    blocks_B: Tensor
    steps_BT: Tensor


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The settings of the objective; the defaults are R2-dLLM's (arXiv 2604.18995, section 5.2).

    Attributes:
        objective: "block" (section 5.2) or "masked" (1/t).
        block_length: None is the model's own, or 32 if it has none.
        mask_rate, complementary: of the block objective; a batch then has two views of every example.
        window: what the block objective asks at once: one "block" after clean ones, or the whole "answer" up to the block of
            the first EOS, for decoding several blocks at once. A block-causal model is asked about all blocks in any case.
        on_policy: the share of rows whose supervised masks the model first fills with its own most probable tokens, in a
            forward without gradient, before it is asked for the right ones (DMax, OPUT).
        certainty: the weight of the entropy, at temperature 0.5, of supervised tokens that are predicted rightly, beside
            the cross-entropy (dParallel: 2).
    """

    objective: Literal["block", "masked"] = "block"
    block_length: int | None = None
    mask_rate: float = 0.5
    complementary: bool = True
    window: Literal["block", "answer"] = "block"
    on_policy: float = 0.0
    certainty: float = 0.0

    def __post_init__(self) -> None:
        for name, known in WORDS.items():
            if getattr(self, name) not in known:
                raise unknown(name, str(getattr(self, name)), known)
        whole("block_length", self.block_length, 1)
        if not 0 < self.mask_rate < 1:
            raise ConfigError(f"mask_rate must be between 0 and 1, got {self.mask_rate}")
        number("on_policy", self.on_policy, 0.0, 1.0)
        number("certainty", self.certainty, 0.0, 100.0)

    def block(self, spec: ModelSpec) -> int:
        """The block length of this training. Raises ConfigError if it is not that of a block-causal model."""
        if spec.block is not None and self.block_length not in (None, spec.block):
            raise ConfigError(f"block_length {self.block_length}: the model has blocks of {spec.block} tokens; leave it out")
        return spec.block or self.block_length or BLOCK

    def hide(self, rows: Rows, spec: ModelSpec, generator: torch.Generator) -> noise.Hidden:
        """Mask some rows: one view of each, or all first views and then all second ones."""
        made = self._masked(rows, spec, generator)
        if self.on_policy:
            made = made._replace(own_B=torch.rand(made.total_B.shape, generator=generator) < self.on_policy)
        return made._replace(certain_B=self.certainty * made.total_B) if self.certainty else made

    def _masked(self, rows: Rows, spec: ModelSpec, generator: torch.Generator) -> noise.Hidden:
        answer_BT, rate, both = rows.answer_BT, self.mask_rate, self.complementary
        if self.objective == "masked":
            return noise.masked(answer_BT, generator)
        if spec.block is not None:
            return noise.views(answer_BT, torch.zeros_like(answer_BT), rate, generator, complementary=both)
        if self.window == "block":
            return noise.redundancy_aware(answer_BT, self.block(spec), rows.blocks_B, rate, generator, complementary=both)
        asked_BT, later_BT = noise.first_blocks(answer_BT, self.block(spec), rows.blocks_B)
        return noise.views(asked_BT, later_BT, rate, generator, complementary=both)
