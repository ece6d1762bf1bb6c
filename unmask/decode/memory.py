"""The little state that some rules carry from step to step: tensors that go in and come back.

A rule declares its state as a NamedTuple whose fields say what they hold; whatever keeps it needs to know no more:

    class Streak(NamedTuple):
        token: Whole
        total: Real

A rule starts its state afresh at a block's first step, so that nothing else has to reset it.
"""

from collections.abc import Iterator
from typing import Annotated, NamedTuple, Protocol, Self, TypeVar, get_type_hints

import torch
from torch import Tensor

Whole = Annotated[Tensor, "whole"]  # [B, L], int64
Real = Annotated[Tensor, "real"]  # [B, L], in the precision of confidences
Trace = Annotated[Tensor, "trace"]  # [B, L, TRACE], int64: something of each of a block's last steps
TRACE = 64  # as many as a block of 32 tokens takes, and some over


class State(Protocol):
    """What every NamedTuple of `Whole`, `Real` and `Trace` fields is, `empty` included where it is written as in `Streak`."""

    def __init__(self, *parts: Tensor) -> None: ...

    @property
    def _fields(self) -> tuple[str, ...]: ...

    @classmethod
    def empty(cls, rows: int, length: int, device: torch.device, dtype: torch.dtype) -> Self:
        """A state of nothing but zeros; `dtype` is that of confidences."""
        ...

    def __iter__(self) -> Iterator[Tensor]: ...


Memory = State | None
S = TypeVar("S", bound=State)


def empty(kind: type[S], rows: int, length: int, device: torch.device, dtype: torch.dtype) -> S:
    """A state of zeros as its fields declare them; `dtype` is that of confidences."""

    def zeros(hint: object) -> Tensor:
        shape = (rows, length, TRACE) if hint == Trace else (rows, length)
        return torch.zeros(shape, device=device, dtype=dtype if hint == Real else torch.int64)

    return kind(*map(zeros, get_type_hints(kind, include_extras=True).values()))


class Streak(NamedTuple):
    """How long a position has predicted the same token, and how surely. Shapes [B, L]."""

    token: Whole
    length: Whole  # consecutive steps with this token
    total: Real  # sum of its confidences over the streak
    peak: Real  # largest of them

    @classmethod
    def empty(cls, rows: int, length: int, device: torch.device, dtype: torch.dtype) -> "Streak":
        return empty(cls, rows, length, device, dtype)


def choose(mask_B: Tensor, yes: Memory, no: Memory) -> Memory:
    """Row by row, `yes` where the mask [B] holds and `no` elsewhere."""
    if yes is None or no is None:
        return None

    def pick(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(mask_B.view(-1, *(1 for _ in new.shape[1:])), new, old)

    return type(yes)(*map(pick, yes, no))
