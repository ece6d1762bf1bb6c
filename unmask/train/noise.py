"""Which tokens of an answer a training step hides. Pure: tensors and a generator in, a mask out.

Shapes: B rows, T tokens. `answer_BT` marks the tokens that may be hidden: the answer and its EOS tail, never the prompt.
"""

import torch
from torch import Tensor


def stratified(rows: int, generator: torch.Generator, device: torch.device | None = None) -> Tensor:
    """One masking rate a row, [B], spread evenly over (0, 1): a shared offset, then a shuffle (arXiv 2107.00630, app. I.1).

    >>> rates = stratified(4, torch.Generator().manual_seed(0))
    >>> sorted((rates * 4).long().tolist())
    [0, 1, 2, 3]
    """
    offset = torch.rand((), generator=generator)
    rates = (torch.arange(rows) + offset) / rows
    return rates[torch.randperm(rows, generator=generator)].clamp(1e-3, 1.0).to(device)


def bernoulli(answer_BT: Tensor, rate_B: Tensor, generator: torch.Generator) -> Tensor:
    """Hide each answer token with its row's rate, and at least one token a row (arXiv 2502.09992, algorithm 2)."""
    draws = torch.rand(answer_BT.shape, generator=generator).to(answer_BT.device)
    hidden = answer_BT & (draws < rate_B[:, None])
    first = torch.where(answer_BT, draws, 2.0).argmin(dim=1, keepdim=True)
    forced = torch.zeros_like(hidden).scatter_(1, first, True) & answer_BT
    return hidden | (forced & ~hidden.any(dim=1, keepdim=True))


def block(answer_BT: Tensor, length: int, rate_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hide a row as block-wise decoding sees it: one block partly, later ones wholly, earlier ones not at all.

    The block is drawn per row among those that hold an answer token (R2-dLLM, arXiv 2604.18995, section 5.2).
    Returns (hidden, supervised), both [B, T]: everything hidden, and the part of it inside the drawn block.
    """
    order = answer_BT.long().cumsum(dim=1) - 1
    number = order.div(length, rounding_mode="floor")
    blocks_B = number.amax(dim=1) + 1
    chosen = (torch.rand(blocks_B.shape, generator=generator).to(blocks_B.device) * blocks_B).long()[:, None]
    inside = bernoulli(answer_BT & (number == chosen), rate_B, generator)
    return inside | (answer_BT & (number > chosen)), inside
