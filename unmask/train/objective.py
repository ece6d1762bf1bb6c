"""The objective of a fine-tuning as a value: which tokens are masked, which are asked, and the weight of each.

The functions behind it are pure (train/noise.py, train/loss.py); train/batches.py applies them to the rows of a step.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from unmask.decode.settings import whole
from unmask.decode.spec import ModelSpec
from unmask.errors import ConfigError, unknown
from unmask.train import noise

BLOCK = 32  # R2-dLLM's


class Rows(NamedTuple):
    """Examples as tensors: `tokens_BT`, `answer_BT` (may be masked), `blocks_B` (blocks up to the first EOS)."""

    tokens_BT: Tensor
    answer_BT: Tensor
    blocks_B: Tensor


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The settings of the objective; the defaults are R2-dLLM's (arXiv 2604.18995, section 5.2).

    Attributes:
        objective: "block" (section 5.2) or "masked" (1/t).
        block_length: None is the model's own, or 32 if it has none.
        mask_rate, complementary: of the block objective; a batch then has two views of every example.
    """

    objective: Literal["block", "masked"] = "block"
    block_length: int | None = None
    mask_rate: float = 0.5
    complementary: bool = True

    def __post_init__(self) -> None:
        known = get_args(Literal["block", "masked"])
        if self.objective not in known:
            raise unknown("objective", str(self.objective), known)
        whole("block_length", self.block_length, 1)
        if not 0 < self.mask_rate < 1:
            raise ConfigError(f"mask_rate must be between 0 and 1, got {self.mask_rate}")

    def block(self, spec: ModelSpec) -> int:
        """The block length of this training. Raises ConfigError if it is not that of a block-causal model."""
        if spec.block is not None and self.block_length not in (None, spec.block):
            raise ConfigError(f"block_length {self.block_length}: the model has blocks of {spec.block} tokens; leave it out")
        return spec.block or self.block_length or BLOCK

    def hide(self, rows: Rows, spec: ModelSpec, generator: torch.Generator) -> noise.Hidden:
        """Mask some rows: one view of each, or all first views and then all second ones."""
        answer_BT, rate, both = rows.answer_BT, self.mask_rate, self.complementary
        if self.objective == "masked":
            return noise.masked(answer_BT, generator)
        if spec.block is None:
            return noise.redundancy_aware(answer_BT, self.block(spec), rows.blocks_B, rate, generator, complementary=both)
        return noise.views(answer_BT, torch.zeros_like(answer_BT), rate, generator, complementary=both)
