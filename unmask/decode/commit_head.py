"""A commit head: a small network beside a model that says whether a prediction is final. Pure: tensors in, tensors out.

It is data of one model's weights (models/commit_head.py reads it from a file, train/head.py trains it); the rule that asks it
is decode/learned.py.

Shapes: B rows, L block positions, C model width, F numbers of evidence, H hidden channels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, silu

from unmask.decode.proposal import Proposal

LARGEST = 12.0  # of a logit: a confidence of 1 - 6e-6
NEAR = 4  # positions on either side that count as neighbours
FACTS = 9  # F


def facts(proposal: Proposal) -> Tensor:
    """The evidence beside the hidden state, float32 [B, L, F], each number of the order of 1.

    Of a position: logit of its confidence, entropy in nats; the logits of its two neighbours; which share of the nearest
    positions on the left and on the right is masked; whether it is the first mask; which share of the block is masked; how
    many steps were made (log1p).
    """
    masked_BL = proposal.masked_BL.float()
    logit_BL = torch.logit(proposal.confidence_BL.float(), 1e-7).clamp(-LARGEST, LARGEST) / 4
    seen_BL = torch.where(proposal.masked_BL, logit_BL, LARGEST / 4)  # what is committed is sure
    around_BLN = pad(masked_BL, (NEAR, NEAR)).unfold(1, 2 * NEAR + 1, 1)
    first_BL = (masked_BL.cumsum(dim=1) == 1) & proposal.masked_BL
    numbers = (
        logit_BL,
        proposal.entropy.float(),
        pad(seen_BL, (1, 0), value=LARGEST / 4)[:, :-1],
        pad(seen_BL, (0, 1), value=LARGEST / 4)[:, 1:],
        around_BLN[..., :NEAR].mean(dim=-1),
        around_BLN[..., NEAR + 1 :].mean(dim=-1),
        first_BL.float(),
        masked_BL.mean(dim=1, keepdim=True).expand_as(masked_BL),
        proposal.step_B.float().log1p()[:, None].expand_as(masked_BL),
    )
    return torch.stack(numbers, dim=-1)


class HeadWeights(NamedTuple):
    """Two layers over hidden state and facts, and the logit; biases are last columns."""

    first_HX: Tensor  # X = C + F + 1
    second_HH: Tensor  # [H, H + 1]
    last_1H: Tensor  # [1, H + 1]


@dataclass(frozen=True, eq=False, repr=False)
class CommitHead:
    """The weights, and the fingerprint of the model's that they were trained for. Two heads are equal if they are one.

    `digest` tells heads of one model apart: what a run with the head wrote is not another head's.
    """

    weights: HeadWeights
    fingerprint: str
    digest: str = ""

    def __repr__(self) -> str:
        return f"CommitHead({self.fingerprint})"

    @property
    def width(self) -> int:
        """C of the model that it belongs to."""
        return self.weights.first_HX.shape[1] - FACTS - 1

    def __call__(self, proposal: Proposal) -> Tensor:
        """The probability [B, L] that each position's prediction is final, float32."""
        assert proposal.hidden_BLC is not None
        return torch.sigmoid(logits(self.weights, proposal.hidden_BLC, facts(proposal)))


def logits(weights: HeadWeights, hidden: Tensor, known: Tensor) -> Tensor:
    """Logit of "is final" of hidden states [..., C] and facts [..., F]."""
    x = torch.cat((hidden.float(), known), dim=-1)
    for layer in weights[:-1]:
        x = silu(x @ layer[:, :-1].T + layer[:, -1])
    return (x @ weights.last_1H[:, :-1].T + weights.last_1H[:, -1])[..., 0]
