"""Cross-entropy of masked diffusion. Pure: logits, targets and weights in, a number out.

The loss of a step is the sum of weight * cross-entropy over all supervised tokens of the step, on every device and in
every micro-batch, divided by the sum of the rows' totals (noise.Hidden) over the same. So an accumulated batch, a batch
spread over devices and a big batch are the same number and the same gradient.

Shapes: B rows, T tokens, N supervised tokens of them, Q tokens that a forward is given.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unmask.train.layout import noisy_and_clean
from unmask.train.noise import Hidden


class Question(NamedTuple):
    """What a network is shown and asked: one micro-batch, ready for it.

    Attributes:
        input_BQ: the tokens, the hidden ones replaced by the mask; for a block-causal model, clean ones beside them.
        row_N, place_N: where in it the supervised tokens are.
        target_N: what they are.
        weight_N: float, the weight of each.
        total: this micro-batch's part of the divisor.
        positions_Q, mask_QQ: where the tokens stand and who sees whom (layout.py); None: one copy, as the network has it.
    """

    input_BQ: Tensor
    row_N: Tensor
    place_N: Tensor
    target_N: Tensor
    weight_N: Tensor
    total: float
    positions_Q: Tensor | None = None
    mask_QQ: Tensor | None = None

    def to(self, device: torch.device) -> "Question":
        """The same question on a device."""
        return Question(*(part.to(device) if isinstance(part, Tensor) else part for part in self))


def ask(tokens_BT: Tensor, hidden: Hidden, mask_id: int, block: int | None = None) -> Question:
    """Put the masks in and list what is supervised: every token whose weight is not 0.

    With `block`, the block length of a block-causal model, the clean tokens come along (layout.py): what is hidden in one
    block is then visible to all later ones, and the forward begins with the first block that is asked about.

    >>> made = Hidden(torch.tensor([[False, True]]), torch.tensor([[0.0, 2.0]]), torch.tensor([2.0]))
    >>> question = ask(torch.tensor([[7, 8]]), made, mask_id=9)
    >>> question.input_BQ.tolist(), question.place_N.tolist(), question.target_N.tolist(), question.total
    ([[7, 9]], [1], [8], 2.0)
    """
    row_N, place_N = (hidden.weight_BT > 0).nonzero(as_tuple=True)
    noisy_BT = tokens_BT.masked_fill(hidden.hidden_BT, mask_id)
    first = 0 if block is None or not len(place_N) else int(place_N.min()) // block * block
    shown = (noisy_BT, None, None) if block is None else noisy_and_clean(noisy_BT, tokens_BT, block, first)
    return Question(
        input_BQ=shown[0],
        row_N=row_N,
        place_N=place_N - first,
        target_N=tokens_BT[row_N, place_N],
        weight_N=hidden.weight_BT[row_N, place_N],
        total=hidden.total_B.sum().item(),
        positions_Q=shown[1],
        mask_QQ=shown[2],
    )


def weighted(losses_N: Tensor, weight_N: Tensor, total: float) -> Tensor:
    """The loss of these tokens in a step whose rows' totals sum to `total`."""
    return (losses_N * weight_N).sum() / total
