"""The little state that some rules carry from step to step: tensors that go in and come back."""

from typing import NamedTuple

import torch
from torch import Tensor


class Streak(NamedTuple):
    """How long a position has predicted the same token, and how surely. Shapes [B, L].

    A rule that carries one starts it afresh at a block's first step, so nobody else has to reset it.
    """

    token: Tensor  # int64
    length: Tensor  # int64: consecutive steps with this token
    total: Tensor  # sum of its confidences over the streak
    peak: Tensor  # largest of them

    @classmethod
    def empty(cls, rows: int, length: int, device: torch.device, dtype: torch.dtype) -> "Streak":
        zeros = torch.zeros((rows, length), device=device, dtype=dtype)
        return cls(token=zeros.long() - 1, length=zeros.long(), total=zeros, peak=zeros.clone())


Memory = Streak | None


def choose(mask_B: Tensor, yes: Memory, no: Memory) -> Memory:
    """Row by row, `yes` where the mask [B] holds and `no` elsewhere."""
    if yes is None or no is None:
        return None
    return Streak(*(torch.where(mask_B[:, None], new, old) for new, old in zip(yes, no, strict=True)))
