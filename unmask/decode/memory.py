"""The state that some rules carry from step to step: tensors that go in and come back."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor


class State(Protocol):
    """A NamedTuple of tensors [B, L] of one block: int64 for whole numbers, the confidences' precision for real ones.

    A block starts with `empty`; what keeps a state needs to know no more of it than this.
    """

    @classmethod
    def empty(cls, rows: int, length: int, device: torch.device, dtype: torch.dtype) -> Self:
        """The state at a block's first step; `dtype` is that of its real fields."""
        ...

    def __iter__(self) -> Iterator[Tensor]: ...


class Streak(NamedTuple):
    """How long a position has predicted the same token, and how surely. Shapes [B, L]."""

    token: Tensor  # int64
    length: Tensor  # int64: consecutive steps with this token
    total: Tensor  # sum of its confidences over the streak
    peak: Tensor  # largest of them

    @classmethod
    def empty(cls, rows: int, length: int, device: torch.device, dtype: torch.dtype) -> "Streak":
        zeros = torch.zeros((rows, length), device=device, dtype=dtype)
        return cls(token=zeros.long() - 1, length=zeros.long(), total=zeros, peak=zeros.clone())


Memory = State | None


def choose(mask_B: Tensor, yes: Memory, no: Memory) -> Memory:
    """Row by row, `yes` where the mask [B] holds and `no` elsewhere."""
    if yes is None or no is None:
        return None
    return type(yes)(*(torch.where(mask_B[:, None], new, old) for new, old in zip(yes, no, strict=True)))
