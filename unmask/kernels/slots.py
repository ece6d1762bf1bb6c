"""Where the queries of block forwards lie: positions and the pool's slots, of numbers that only the device knows.

Shapes: B queries of Q tokens, P pages of a row.
"""

import torch
from torch import Tensor

from unmask.kernels import accelerated
from unmask.kernels.paged import stored


def block_slots(pages_BP: Tensor, begin_B: Tensor, shift_B: Tensor, length: int, *, page: int) -> tuple[Tensor, Tensor, Tensor]:
    """The row's slots from `begin` on [B, Q], the pool's slots of those `shift` further on [B, Q], and where they end [B].

    All int64.

    >>> number = torch.tensor
    >>> block_slots(number([[7, 3]]), number([1]), number([0]), 2, page=2)
    (tensor([[1, 2]]), tensor([[15,  6]]), tensor([3]))
    """
    if accelerated(begin_B):
        from unmask.kernels.gpu import slots as gpu

        return gpu.block_slots(pages_BP, begin_B, shift_B, length, page=page)
    slot_BQ = begin_B[:, None] + torch.arange(length, device=begin_B.device)
    row_B1 = torch.arange(len(begin_B), device=begin_B.device)[:, None]
    return slot_BQ, stored(pages_BP, row_B1, slot_BQ + shift_B[:, None], page=page), begin_B + length
