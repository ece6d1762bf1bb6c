"""The cross-entropy of masked diffusion. Pure: logits, targets and weights in, a number out.

The loss of a step is the sum of weight * cross-entropy over all supervised tokens of the step, on every device and in
every micro-batch, divided by the sum of the rows' totals (noise.Hidden) over the same. So an accumulated batch, a batch
spread over devices and a large batch give the same loss and the same gradient.

Shapes: B rows, T tokens, N supervised tokens of them, Q tokens in a forward.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask.decode.spec import ModelSpec
from unmask.train.layout import noisy_and_clean
from unmask.train.noise import Hidden


class Question(NamedTuple):
    """One micro-batch: the network's input, and the tokens that it must predict.

    Attributes:
        input_BQ: the tokens, some of them masked; for a block-causal model both copies (layout.py).
        row_N, place_N: row and index of each supervised token in it.
        target_N: the right token of each.
        weight_N: float, the weight of each.
        total: this micro-batch's part of the divisor.
        positions_Q, mask_QQ: positions of the tokens of both copies, and the keys that each query sees; None: one copy.
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
        moved: list[Any] = [part.to(device) if isinstance(part, Tensor) else part for part in self]
        return Question(*moved)


def ask(tokens_BT: Tensor, hidden: Hidden, spec: ModelSpec) -> Question:
    """Mask the hidden tokens and list the supervised ones: every token whose weight is not 0.

    A block-causal model also gets the clean tokens (layout.py), so that a token masked in one block is visible to all later
    blocks. Its forward begins with the first block that has supervised tokens.

    >>> made = Hidden(torch.tensor([[False, True]]), torch.tensor([[0.0, 2.0]]), torch.tensor([2.0]))
    >>> spec = ModelSpec(mask_id=9, eos_ids=(1,), vocab_size=10, max_length=64)
    >>> question = ask(torch.tensor([[7, 8]]), made, spec)
    >>> question.input_BQ.tolist(), question.place_N.tolist(), question.target_N.tolist(), question.total
    ([[7, 9]], [1], [8], 2.0)
    """
    row_N, place_N = (hidden.weight_BT > 0).nonzero(as_tuple=True)
    noisy_BT = tokens_BT.masked_fill(hidden.hidden_BT, spec.mask_id)
    question = Question(
        input_BQ=noisy_BT,
        row_N=row_N,
        place_N=place_N,
        target_N=tokens_BT[row_N, place_N],
        weight_N=hidden.weight_BT[row_N, place_N],
        total=hidden.total_B.sum().item(),
    )
    if spec.block is None:
        return question
    first = int(place_N.min()) // spec.block * spec.block if len(place_N) else 0
    layout = noisy_and_clean(noisy_BT, tokens_BT, spec.block, first)
    index_N = place_N - first
    if spec.lookbehind:  # a block's first token is predicted by the clean row before it, as in decoding
        clean_N = index_N + noisy_BT.shape[1]
        index_N = torch.where(place_N % spec.block == 0, clean_N, index_N)
    return question._replace(input_BQ=layout.tokens_BQ, place_N=index_N, positions_Q=layout.positions_Q, mask_QQ=layout.mask_QQ)


def weighted(losses_N: Tensor, weight_N: Tensor, total: float) -> Tensor:
    """The part of the loss of these tokens, in a step whose rows' totals sum to `total`."""
    return (losses_N * weight_N).sum() / total
