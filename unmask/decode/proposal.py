"""The evidence that every rule of a step reads. Pure data; `step.propose` makes it of logits.

Shapes: B rows, L window positions, C model width, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.kernels.vocabulary import Score as Score


class Proposal(NamedTuple):
    """What each position of a block would become, and how sure the model is.

    Attributes:
        candidate_BL: int64, the token each position would become.
        confidence_BL: float, its probability in the untempered softmax over the vocabulary, at least fp32.
        score_BL: float, what quota and schedule rank by; the confidence unless a method says otherwise.
        masked_BL: bool, masked before this step.
        open_BL: bool, masked and not yet taken by an earlier rule of this step.
        filler_BL: bool, the candidate ends the answer (EOS), so repeats of it are no accident.
        step_B: int64, commits steps already made in the row's block; 0 is the step after the refresh.
        suffix_B: int64, positions behind the block that the forward saw.
        token_BL: int64, the block's tokens before this step.
        fixed_BL: bool, given from the start (a prompt's tail, or fixed text): never written, and its EOS ends nothing.
        hidden_BLC: the last layer's normalised states that predict each position; None unless a rule reads them.
        logits_BLV: of the whole vocabulary, the mask's at -inf; None without a rule that moves tokens, which reads them.
        probability_BL: as the confidence, where a rule is told another one; None: the confidence is it.
        top_id_BLA, top_BLA: the most probable tokens and the logarithms of their probabilities; None unless asked for.
        refused_BL: int64, what was a position's candidate before a constraint that does not allow it there, else -1; None
            without a constraint.
        forced_B: bool, whether the row must take a position though none is sure; None: every row must.
    """

    candidate_BL: Tensor
    confidence_BL: Tensor
    score_BL: Tensor
    masked_BL: Tensor
    open_BL: Tensor
    filler_BL: Tensor
    step_B: Tensor
    suffix_B: Tensor
    token_BL: Tensor
    fixed_BL: Tensor
    hidden_BLC: Tensor | None = None
    logits_BLV: Tensor | None = None
    probability_BL: Tensor | None = None
    top_id_BLA: Tensor | None = None
    top_BLA: Tensor | None = None
    refused_BL: Tensor | None = None
    forced_B: Tensor | None = None

    @property
    def editable(self) -> Tensor:
        """Committed positions, which a rule with `edits` may rewrite."""
        return ~(self.masked_BL | self.fixed_BL)

    @property
    def entropy(self) -> Tensor:
        """Of the distribution over the vocabulary, in nats; for rules whose evidence is "negative_entropy"."""
        return -self.score_BL

    def rows(self, index_B: Tensor | slice) -> "Proposal":
        """The evidence of these rows."""
        return Proposal(*(None if part is None else part[index_B] for part in self))  # type: ignore[arg-type]


def without(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """A copy of logits [..., V] in which none of these tokens can be chosen.

    >>> without(torch.tensor([1.0, 3.0, 2.0]), (1,)).argmax().item()
    2
    """
    offered = logits.clone()
    for token in tokens:  # one by one: a list of ids would be copied to the device, which no captured graph may do
        offered[..., token] = -torch.inf
    return offered
