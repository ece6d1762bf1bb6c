"""Which tokens of an answer a training step masks, and the weight of each of them. Pure: tensors in, tensors out.

Shapes: B rows, T tokens. `answer_BT` marks the tokens that may be masked: the answer and its EOS tail, never the prompt.

Every objective makes a `Hidden`, which train/loss.py turns into a number, the same way for all.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Hidden(NamedTuple):
    """The tokens that are masked, and those that the model is trained to predict.

    Attributes:
        hidden_BT: bool, replaced by the mask.
        weight_BT: float, the weight of each token's cross-entropy; 0 for tokens that are not supervised.
        total_B: float, each row's part of the divisor of the loss.
        own_B: bool, the rows whose supervised masks the network fills itself before it is trained; None: no switch for it.
        certain_B: float, the weight of each row's entropy (loss.certainty); None: no such term.
    """

    hidden_BT: Tensor
    weight_BT: Tensor
    total_B: Tensor
    own_B: Tensor | None = None
    certain_B: Tensor | None = None

    def rows(self, part: slice) -> "Hidden":
        """Some of the rows: for micro-batches."""
        fields: list[Any] = [None if field is None else field[part] for field in self]
        return Hidden(*fields)


# --- rates and masks --------------------------------------------------------------------------------------------------


def stratified(rows: int, generator: torch.Generator, device: torch.device | None = None) -> Tensor:
    """One masking rate per row, [B], spread evenly over (0, 1): a shared offset, then a shuffle (arXiv 2107.00630, app. I.1).

    >>> rates = stratified(4, torch.Generator().manual_seed(0))
    >>> sorted((rates * 4).long().tolist())
    [0, 1, 2, 3]
    """
    offset = torch.rand((), generator=generator)
    rates = (torch.arange(rows) + offset) / rows
    return rates[torch.randperm(rows, generator=generator)].clamp(1e-3, 1.0).to(device)


def bernoulli(answer_BT: Tensor, rate_BT: Tensor, generator: torch.Generator) -> Tensor:
    """Mask each answer token with its rate, and at least one token per row (arXiv 2502.09992, algorithm 2)."""
    draws = torch.rand(answer_BT.shape, generator=generator).to(answer_BT.device)
    hidden = answer_BT & (draws < rate_BT)
    first = torch.where(answer_BT, draws, 2.0).argmin(dim=1, keepdim=True)
    forced = torch.zeros_like(hidden).scatter_(1, first, True) & answer_BT
    return hidden | (forced & ~hidden.any(dim=1, keepdim=True))


def draw_block(answer_BT: Tensor, length: int, blocks_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One block of each row, drawn among its first `blocks_B`: (the block's tokens, the tokens after it), both bool [B, T]."""
    order = answer_BT.long().cumsum(dim=1) - 1
    number = order.div(length, rounding_mode="floor")
    chosen = (torch.rand(blocks_B.shape, generator=generator).to(blocks_B.device) * blocks_B).long()[:, None]
    return answer_BT & (number == chosen), answer_BT & (number > chosen)


def first_blocks(answer_BT: Tensor, length: int, blocks_B: Tensor) -> tuple[Tensor, Tensor]:
    """The first `blocks_B` blocks of each row and the tokens after them, both bool [B, T]: the whole answer at once."""
    number = (answer_BT.long().cumsum(dim=1) - 1).div(length, rounding_mode="floor")
    return answer_BT & (number < blocks_B[:, None]), answer_BT & (number >= blocks_B[:, None])


def blocks_of(answer_BT: Tensor, length: int) -> Tensor:
    """Number of blocks of `length` tokens that each row's answer fills, [B]."""
    return -(-answer_BT.sum(dim=1) // length)


def block(answer_BT: Tensor, length: int, rate_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mask a row as block-wise decoding sees it: one block in part, later ones wholly, earlier ones not at all.

    Returns (hidden, supervised), both [B, T]: everything masked, and the part of it inside the drawn block.
    """
    drawn, later = draw_block(answer_BT, length, blocks_of(answer_BT, length), generator)
    inside = bernoulli(drawn, rate_B[:, None], generator)
    return inside | later, inside


def grid(answer_BT: Tensor, length: int, whole: float, generator: torch.Generator) -> Tensor:
    """Mask every block of the grid (positions 0 to `length` - 1, and so on) at its own rate, bool [B, T].

    A share `whole` of the blocks is masked wholly, as at the start of their decode; the rates of the others are spread evenly
    over (0, 1). At least one token per row is masked.

    >>> grid(torch.ones(1, 4, dtype=torch.bool), 2, 1.0, torch.Generator().manual_seed(0))
    tensor([[True, True, True, True]])
    """
    rows, tokens = answer_BT.shape
    blocks = -(-tokens // length)
    rates = stratified(rows * blocks, generator, answer_BT.device).view(rows, blocks)
    rates = (rates / max(1 - whole, 1e-6)).clamp(max=1.0)
    return bernoulli(answer_BT, rates.repeat_interleave(length, dim=1)[:, :tokens], generator)


# --- objectives -------------------------------------------------------------------------------------------------------


def equal_rows(hidden_BT: Tensor, supervised_BT: Tensor) -> Hidden:
    """The objective of pre-training: every row has the same weight, each of its n supervised tokens 1 / n."""
    count_B1 = supervised_BT.sum(dim=1, keepdim=True)
    return Hidden(hidden_BT, supervised_BT / count_B1.clamp(min=1), (count_B1[:, 0] > 0).float())


def masked(answer_BT: Tensor, generator: torch.Generator) -> Hidden:
    """The usual objective of masked diffusion: every answer token is masked with the row's rate t and has weight 1 / t.

    arXiv 2502.09992, eq. 5, with the share of tokens that was really masked in place of t: the same in expectation, and a t
    near 0 adds no variance. The divisor counts answer tokens.

    >>> made = masked(torch.ones(1, 4, dtype=torch.bool), torch.Generator().manual_seed(0))
    >>> (made.weight_BT.sum() / made.total_B.sum()).item()
    1.0
    """
    rates = stratified(len(answer_BT), generator, answer_BT.device)
    hidden = bernoulli(answer_BT, rates[:, None], generator)
    total_B = answer_BT.sum(dim=1).float()
    weight_BT = hidden * (total_B / hidden.sum(dim=1).clamp(min=1))[:, None]
    return Hidden(hidden, weight_BT, total_B)


def redundancy_aware(
    answer_BT: Tensor, length: int, blocks_B: Tensor, rate: float, generator: torch.Generator, *, complementary: bool = True
) -> Hidden:
    """R2-dLLM's block objective (arXiv 2604.18995, eq. 5 and section 5.2): s = `length`, p_m = `rate`.

    One block per row, drawn among its first `blocks_B`: earlier blocks are clean, later ones masked, and inside it each token
    is masked with `rate` and has weight 1 / rate; the divisor counts the block's tokens. With `complementary` there are
    2 B rows: a row's second view, B rows below, masks the block's tokens that the first one shows, with weight
    1 / (1 - rate). Block and mask are drawn anew for every row.

    >>> answer, two = torch.ones(1, 4, dtype=torch.bool), torch.tensor([2])
    >>> made = redundancy_aware(answer, 2, two, 0.5, torch.Generator().manual_seed(1))
    >>> made.hidden_BT.long()
    tensor([[0, 0, 0, 1],
            [0, 0, 1, 0]])
    >>> made.weight_BT
    tensor([[0., 0., 0., 2.],
            [0., 0., 2., 0.]])
    """
    drawn, later = draw_block(answer_BT, length, blocks_B, generator)
    return views(drawn, later, rate, generator, complementary=complementary)


def views(asked_BT: Tensor, later_BT: Tensor, rate: float, generator: torch.Generator, *, complementary: bool) -> Hidden:
    """Mask each of the supervised tokens with `rate`, and all later ones: one view of a row, or two complementary ones.

    For a block-causal model `asked_BT` is the whole answer and no token is later: R2-dLLM's objective for all blocks at once.
    """
    first = asked_BT & (torch.rand(asked_BT.shape, generator=generator).to(asked_BT.device) < rate)
    total_B = asked_BT.sum(dim=1).float()
    if not complementary:
        return Hidden(first | later_BT, first / rate, total_B)
    second = asked_BT & ~first
    hidden = torch.cat((first | later_BT, second | later_BT))
    return Hidden(hidden, torch.cat((first / rate, second / (1 - rate))), total_B.repeat(2))
