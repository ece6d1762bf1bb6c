"""Cross-entropy of masked diffusion. Pure: logits, targets and weights in, a number out.

The loss of a step is the sum of weight * cross-entropy over all supervised tokens of the step, on every device and in
every micro-batch, divided by the sum of the rows' totals (noise.Hidden) over the same. So an accumulated batch, a batch
spread over devices and a big batch are the same number and the same gradient.

Shapes: B rows, T tokens, N supervised tokens of them.
"""

from typing import NamedTuple

from torch import Tensor

from unmask.train.noise import Hidden


class Question(NamedTuple):
    """What a network is shown and asked: one micro-batch, ready for it.

    Attributes:
        input_BT: the tokens, the hidden ones replaced by the mask.
        row_N, place_N: where the supervised tokens are.
        target_N: what they are.
        weight_N: float, the weight of each.
        total: this micro-batch's part of the divisor.
    """

    input_BT: Tensor
    row_N: Tensor
    place_N: Tensor
    target_N: Tensor
    weight_N: Tensor
    total: float


def ask(tokens_BT: Tensor, hidden: Hidden, mask_id: int) -> Question:
    """Put the masks in and list what is supervised: every token whose weight is not 0.

    >>> import torch
    >>> made = Hidden(torch.tensor([[False, True]]), torch.tensor([[0.0, 2.0]]), torch.tensor([2.0]))
    >>> question = ask(torch.tensor([[7, 8]]), made, mask_id=9)
    >>> question.input_BT.tolist(), question.place_N.tolist(), question.target_N.tolist(), question.total
    ([[7, 9]], [1], [8], 2.0)
    """
    row_N, place_N = (hidden.weight_BT > 0).nonzero(as_tuple=True)
    return Question(
        input_BT=tokens_BT.masked_fill(hidden.hidden_BT, mask_id),
        row_N=row_N,
        place_N=place_N,
        target_N=tokens_BT[row_N, place_N],
        weight_N=hidden.weight_BT[row_N, place_N],
        total=hidden.total_B.sum().item(),
    )


def weighted(losses_N: Tensor, weight_N: Tensor, total: float) -> Tensor:
    """The loss of these tokens in a step whose rows' totals sum to `total`."""
    return (losses_N * weight_N).sum() / total
