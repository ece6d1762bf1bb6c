"""Logits in, evidence out: what each open position would become, and how sure the model is. Pure.

Shapes: B rows, L window positions, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unmask.kernels.vocabulary import Score as Score
from unmask.kernels.vocabulary import evidence


class Proposal(NamedTuple):
    """The evidence that every rule of a step reads.

    Attributes:
        candidate_BL: int64, the token each position would become.
        confidence_BL: float, its probability in the untempered softmax over the vocabulary, at least fp32.
        score_BL: float, what quota and schedule rank by; the confidence unless a method says otherwise.
        masked_BL: bool, masked before this step.
        open_BL: bool, masked and not yet taken by an earlier rule of this step.
        filler_BL: bool, the candidate ends the answer (EOS), so repeats of it are no accident.
        step_B: int64, commits steps already made in the row's block; 0 is the step after the refresh.
        suffix_B: int64, positions behind the block that the forward saw.
    """

    candidate_BL: Tensor
    confidence_BL: Tensor
    score_BL: Tensor
    masked_BL: Tensor
    open_BL: Tensor
    filler_BL: Tensor
    step_B: Tensor
    suffix_B: Tensor


class Sampling(NamedTuple):
    """Per-row sampling numbers. Shapes [B, 1] each; `top_p` or `top_k` is None where no row asks for it.

    `positions_BL` are offsets from the start of the answer: a row's noise is a function of (seed, position, token) and
    of nothing else, so a sample depends neither on the batch nor on how many forwards a method takes.
    """

    temperature_B1: Tensor
    seed_B1: Tensor
    positions_BL: Tensor
    top_p_B1: Tensor | None
    top_k_B1: Tensor | None


def propose(
    logits_BLV: Tensor,
    masked_BL: Tensor,
    *,
    mask_id: int,
    step_B: Tensor,
    suffix_B: Tensor,
    eos: Tensor,
    score: Score = "confidence",
    sampling: Sampling | None = None,
    precision: torch.dtype = torch.float32,
) -> Proposal:
    """Candidate and confidence of every position, in `precision` or the logits' own if that is better.

    `eos` are the ids that end an answer, shape [E]. Without `sampling` the candidate is the most probable token (the
    lowest id among equals). The mask itself is never a candidate, though it has its share of the distribution.

    >>> logits = torch.tensor([[[0.0, 0.0, 2.0, 0.0]]])
    >>> zero = torch.zeros(1, dtype=torch.long)
    >>> made = propose(logits, torch.tensor([[True]]), mask_id=3, step_B=zero, suffix_B=zero, eos=zero)
    >>> made.candidate_BL.item(), round(made.confidence_BL.item(), 3)
    (2, 0.711)
    """
    if precision == torch.float64:
        logits_BLV = logits_BLV.double()
    if sampling is None:
        # Logits of less than fp32 are read as they are, the numbers are fp32 all the same.
        candidate_BL, confidence_BL, _, score_BL = evidence(logits_BLV, mask_id, score)
    else:
        logits = logits_BLV.to(torch.promote_types(logits_BLV.dtype, torch.float32))
        candidate_BL = sample(logits, sampling, mask_id)
        confidence_BL = logits.softmax(dim=-1).gather(-1, candidate_BL[..., None])[..., 0]
        score_BL = confidence_BL if score == "confidence" else evidence(logits, mask_id, score).score_BL
    return Proposal(
        candidate_BL=candidate_BL,
        confidence_BL=confidence_BL,
        score_BL=score_BL,
        masked_BL=masked_BL,
        open_BL=masked_BL,
        filler_BL=(candidate_BL[..., None] == eos).any(dim=-1),
        step_B=step_B,
        suffix_B=suffix_B,
    )


def sample(logits_BLV: Tensor, sampling: Sampling, mask_id: int) -> Tensor:
    """Gumbel-max: argmax of logits / temperature + noise, over the tokens that top-k and top-p keep. Shape [B, L].

    Rows of temperature 0 take the most probable token. The noise of a position stays the same from forward to forward
    (common random numbers), so that a prediction changes only when the model changes its mind.
    """
    hot = sampling.temperature_B1[..., None] > 0
    kept = logits_BLV / torch.where(hot, sampling.temperature_B1[..., None], 1.0)
    kept[..., mask_id] = -torch.inf  # before the filters: it must not take the place of a real token
    if sampling.top_k_B1 is not None:
        kept = _keep_top_k(kept, sampling.top_k_B1)
    if sampling.top_p_B1 is not None:
        kept = _keep_top_p(kept, sampling.top_p_B1)
    noisy = kept + gumbel(sampling.seed_B1, sampling.positions_BL, logits_BLV.shape[-1])
    chosen = torch.where(hot, noisy, logits_BLV)
    chosen[..., mask_id] = -torch.inf
    return chosen.argmax(dim=-1)


def _keep_top_k(logits_BLV: Tensor, top_k_B1: Tensor) -> Tensor:
    ordered = logits_BLV.sort(dim=-1, descending=True).values
    last = (top_k_B1.clamp(1, logits_BLV.shape[-1]) - 1)[..., None].expand(-1, logits_BLV.shape[1], 1)
    return logits_BLV.masked_fill(logits_BLV < ordered.gather(-1, last), -torch.inf)


def _keep_top_p(logits_BLV: Tensor, top_p_B1: Tensor) -> Tensor:
    ordered, order = logits_BLV.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    # A token goes when those before it already hold top_p of the mass; the first one always stays.
    gone = probabilities.cumsum(dim=-1) - probabilities >= top_p_B1[..., None]
    gone[..., 0] = False
    return logits_BLV.masked_fill(torch.zeros_like(gone).scatter(-1, order, gone), -torch.inf)


_WORD = 0xFFFFFFFF


def _mix(word: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser on int64 tensors that hold unsigned words."""
    word = ((word ^ (word >> 16)) * 0x85EBCA6B) & _WORD
    word = ((word ^ (word >> 13)) * 0xC2B2AE35) & _WORD
    return word ^ (word >> 16)


def gumbel(seed_B1: Tensor, positions_BL: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise [B, L, V] as a hash of (seed, position, token): no generator, the same on every device."""
    tokens = torch.arange(vocabulary, device=positions_BL.device)
    row_BL = _mix((_mix(seed_B1 & _WORD) + positions_BL * 0x9E3779B1) & _WORD)
    words = _mix((row_BL[..., None] + tokens * 0x85EBCA77) & _WORD)
    uniform = ((words >> 9).to(torch.float32) + 0.5) / 2**23  # exact in fp32, never 0 and never 1
    return -(-uniform.log()).log()
