"""The cross-entropy of masked diffusion. Pure: logits, targets and weights in, a number out.

The loss of a step is the sum of weight * cross-entropy over all supervised tokens of the step, on every device and in
every micro-batch, divided by the sum of the rows' totals (noise.Hidden) over the same. So an accumulated batch, a batch
spread over devices and a large batch give the same loss and the same gradient.

Shapes: B rows, T tokens, N supervised tokens of them, Q tokens in a forward, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask.decode.spec import ModelSpec
from unmask.train.layout import noisy_and_clean
from unmask.train.noise import Hidden


class Evidence(NamedTuple):
    """What a forward says about each supervised token, [N].

    Attributes:
        loss_N: cross-entropy in fp32.
        right_N: bool, whether the most probable token is the right one.
        entropy_N: of the prediction (loss.entropy), where a question asks for it.
    """

    loss_N: Tensor
    right_N: Tensor
    entropy_N: Tensor | None


class Own(NamedTuple):
    """Masks that the network fills with its own predictions, in a forward without gradient, before it is trained.

    R rows of the micro-batch, M masks in them.

    Attributes:
        rows_R: the rows. At least one, since processes that share a network must run forwards equally often.
        row_M, place_M: index among `rows_R`, and place whose output predicts the mask.
        seen_M: place of the mask in the input.
    """

    rows_R: Tensor
    row_M: Tensor
    place_M: Tensor
    seen_M: Tensor


class Question(NamedTuple):
    """One micro-batch: the network's input, and the tokens that it must predict.

    Attributes:
        input_BQ: the tokens, some of them masked; for a block-causal model both copies (layout.py).
        row_N, place_N: row and index of each supervised token in it.
        target_N: the right token of each.
        weight_N: float, the weight of each.
        total: this micro-batch's part of the divisor.
        positions_Q, mask_QQ: positions of the tokens of both copies, and the keys that each query sees; None: one copy.
        own: the masks that the network fills itself first.
        certain_B: float, the weight of each row's entropy; None: the entropy is not needed.
        distant_M: which of the N are learnt from a teacher's distribution; None: there is no teacher.
    """

    input_BQ: Tensor
    row_N: Tensor
    place_N: Tensor
    target_N: Tensor
    weight_N: Tensor
    total: float
    positions_Q: Tensor | None = None
    mask_QQ: Tensor | None = None
    own: Own | None = None
    certain_B: Tensor | None = None
    distant_M: Tensor | None = None

    def to(self, device: torch.device) -> "Question":
        """The same question on a device."""
        moved: Question = _moved(self, device)
        return moved

    def asked(self) -> tuple[Any, ...]:
        """What the network needs of it (trainer.Student)."""
        inputs = (self.input_BQ, self.row_N, self.place_N, self.target_N, self.positions_Q, self.mask_QQ, self.own)
        return *inputs, self.certain_B is not None, self.distant_M


def _moved(parts: Any, device: torch.device) -> Any:
    if isinstance(parts, Tensor):
        return parts.to(device)
    return type(parts)(*(_moved(part, device) for part in parts)) if isinstance(parts, tuple) else parts


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
    shown_BT = tokens_BT if hidden.shown_BT is None else hidden.shown_BT
    noisy_BT = shown_BT.masked_fill(hidden.hidden_BT, spec.mask_id)
    question = Question(
        input_BQ=noisy_BT,
        row_N=row_N,
        place_N=place_N,
        target_N=tokens_BT[row_N, place_N],
        weight_N=hidden.weight_BT[row_N, place_N],
        total=hidden.total_B.sum().item(),
        certain_B=hidden.certain_B,
        distant_M=None if hidden.distant_BT is None else hidden.distant_BT[row_N, place_N].nonzero()[:, 0],
    )
    seen_N = place_N
    if spec.block is not None:
        first = int(place_N.min()) // spec.block * spec.block if len(place_N) else 0
        begin_T = None if hidden.begin_BT is None else hidden.begin_BT[0]
        layout = noisy_and_clean(noisy_BT, tokens_BT, spec.block, first, begin_T)
        seen_N = index_N = place_N - first
        if spec.lookbehind:  # the first token of a block, or of a chain, is predicted by the clean row before it
            clean_N = index_N + noisy_BT.shape[1]
            begins_N = place_N % spec.block == 0 if begin_T is None else place_N == begin_T[place_N].clamp(min=first)
            index_N = torch.where(begins_N, clean_N, index_N)
        question = question._replace(
            input_BQ=layout.tokens_BQ, place_N=index_N, positions_Q=layout.positions_Q, mask_QQ=layout.mask_QQ
        )
    return (
        question
        if hidden.own_B is None
        else question._replace(own=_own(question, hidden.own_B, hidden.hidden_BT[row_N, place_N], seen_N))
    )


def _own(question: Question, own_B: Tensor, masked_N: Tensor, seen_N: Tensor) -> Own:
    """The supervised masks of the rows of `own_B`, or of row 0 no mask at all."""
    rows_R = own_B.nonzero()[:, 0] if own_B.any() else torch.zeros(1, dtype=torch.int64)
    mine_N = own_B[question.row_N] & masked_N
    row_M = own_B.long().cumsum(dim=0)[question.row_N[mine_N]] - 1
    return Own(rows_R, row_M, question.place_N[mine_N], seen_N[mine_N])


def entropy(logits_NV: Tensor, temperature: float = 0.5) -> Tensor:
    """The entropy [N] of the softmax of logits / temperature, in nats.

    >>> round(entropy(torch.tensor([[0.0, 0.0], [0.5 * 3, 0.0]])).exp()[0].item(), 4)  # two equal tokens
    2.0
    """
    log_NV = (logits_NV / temperature).log_softmax(dim=-1)
    return -(log_NV.exp() * log_NV).sum(dim=-1)


def distance(logits_MV: Tensor, teacher_MV: Tensor) -> Tensor:
    """KL(teacher || student) [M] of two predictions, in nats: what TAD asks of distant tokens (arXiv 2605.09536).

    >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log()  # 1/2, 1/2 and 3/4, 1/4
    >>> round(distance(student, teacher).item(), 4)  # 3/4 ln 3/2 + 1/4 ln 1/2
    0.1308
    """
    ours_MV, theirs_MV = logits_MV.log_softmax(dim=-1), teacher_MV.log_softmax(dim=-1)
    return (theirs_MV.exp() * (theirs_MV - ours_MV)).sum(dim=-1)


def certainty(entropy_N: Tensor, right_N: Tensor, row_N: Tensor, certain_B: Tensor, total: float) -> Tensor:
    """Certainty forcing of dParallel (arXiv 2509.26488) and LLaDA2.0-CAP: entropy of the tokens that are predicted rightly.

    The mean over such tokens of each row, times the row's weight, summed, over the divisor of the step: rows count alike in
    this term and in the cross-entropy, and no split into micro-batches changes it.

    >>> entropy, right = torch.tensor([0.4, 0.2, 9.0, 0.6]), torch.tensor([True, True, False, True])
    >>> round(certainty(entropy, right, torch.tensor([0, 0, 0, 1]), torch.tensor([8.0, 4.0]), total=2.0).item(), 4)
    2.4
    """
    sums_B = torch.zeros_like(certain_B).index_add(0, row_N, entropy_N * right_N)
    counts_B = torch.zeros_like(certain_B).index_add(0, row_N, right_N.to(certain_B.dtype))
    return (certain_B * sums_B / counts_B.clamp(min=1)).sum() / total


def weighted(losses_N: Tensor, weight_N: Tensor, total: float) -> Tensor:
    """The part of the loss of these tokens, in a step whose rows' totals sum to `total`."""
    return (losses_N * weight_N).sum() / total


def part_of(evidence: Evidence, question: Question, total: float) -> Tensor:
    """The part of the loss of a micro-batch, in a step whose rows' totals sum to `total`."""
    loss = weighted(evidence.loss_N, question.weight_N, total)
    if question.certain_B is None or evidence.entropy_N is None:
        return loss
    return loss + certainty(evidence.entropy_N, evidence.right_N, question.row_N, question.certain_B, total)
