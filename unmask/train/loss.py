"""Cross-entropy of masked diffusion. Pure: logits, targets and weights in, a number out.

Shapes: B rows, T tokens, V vocabulary.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy


def row_weights(supervised_BT: Tensor) -> Tensor:
    """Weight 1 / (hidden tokens of the row): the 1/t weighting of arXiv 2502.09992 eq. 3 with the drawn count for its mean.

    Every row then weighs the same, however few of its tokens were hidden, and t near 0 adds no variance.

    >>> import torch
    >>> row_weights(torch.tensor([[True, True], [False, True]]))
    tensor([[0.5000, 0.5000],
            [0.0000, 1.0000]])
    """
    return supervised_BT / supervised_BT.sum(dim=1, keepdim=True).clamp(min=1)


def masked_loss(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor, rows: int) -> Tensor:
    """Weighted cross-entropy of the N supervised tokens, divided by the rows of the whole (accumulated) batch."""
    losses = cross_entropy(logits_NV.float(), targets_N, reduction="none")
    return (losses * weights_N).sum() / rows
