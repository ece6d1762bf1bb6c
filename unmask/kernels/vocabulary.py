"""One pass over the vocabulary: the most probable token of each position, and its confidence.

Shapes: B rows, L positions, V vocabulary; R rows of logits, T tiles of a row.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unmask.kernels import accelerated

Score = Literal["confidence", "margin", "negative_entropy"]


class Evidence(NamedTuple):
    """The statistics of each position's logits, in fp32 or the logits' own precision if that is better.

    If the logits are no distribution (a NaN or +inf, or -inf everywhere), the numbers are NaN and all tokens are equal.

    Attributes:
        candidate_BL: int64, the most probable token that is not the mask, the lowest id among equals.
        confidence_BL: its probability in the softmax over the whole vocabulary, the mask included.
        logsumexp_BL: logarithm of the softmax's denominator.
        score_BL: the confidence, or one of Dream's scores: difference of the two best probabilities, sum of p log p.
    """

    candidate_BL: Tensor
    confidence_BL: Tensor
    logsumexp_BL: Tensor
    score_BL: Tensor


def evidence(logits_BLV: Tensor, mask_id: int, score: Score = "confidence") -> Evidence:
    """Candidate and confidence of every position; the logits are read once.

    Computed by a softmax, not as exp(max - logsumexp): near 1, the difference of two large numbers would decide ranks by noise.

    >>> seen = evidence(torch.tensor([[[0.0, 0.0, 2.0, 9.0]]]), mask_id=3)
    >>> seen.candidate_BL.item(), round(seen.confidence_BL.item(), 6)
    (2, 0.000911)
    """
    if accelerated(logits_BLV):
        from unmask.kernels.gpu import vocabulary as gpu

        return Evidence(*gpu.evidence(logits_BLV, mask_id, score))
    rows_RV = logits_BLV.flatten(0, -2)
    # On a CPU fresh memory is the bottleneck; piece by piece, the allocator reuses the same memory.
    pieces = max(1, rows_RV.numel() >> 20) if rows_RV.is_cpu else 1
    found = [_evidence(piece, mask_id, score) for piece in rows_RV.chunk(pieces)]
    joined = found[0] if len(found) == 1 else map(torch.cat, zip(*found, strict=True))
    return Evidence(*(part_R.view(logits_BLV.shape[:-1]) for part_R in joined))


def _evidence(logits_RV: Tensor, mask_id: int, score: Score) -> Evidence:
    probabilities_RV = logits_RV.softmax(dim=1, dtype=torch.promote_types(logits_RV.dtype, torch.float32))
    logsumexp_R = logits_RV.amax(dim=1) - probabilities_RV.amax(dim=1).log()
    score_R = None
    if score == "margin":
        score_R = probabilities_RV.topk(2).values.diff().neg()[:, 0]
    elif score == "negative_entropy":
        score_R = torch.special.xlogy(probabilities_RV, probabilities_RV).sum(dim=1)
    probabilities_RV[:, mask_id] = -1.0
    confidence_R, candidate_R = _largest(probabilities_RV)
    return Evidence(candidate_R, confidence_R, logsumexp_R, confidence_R if score_R is None else score_R)


def _largest(x_RV: Tensor, width: int = 256) -> tuple[Tensor, Tensor]:
    """As `x_RV.max(dim=1)`, which on a CPU spends most time on indices: here only maxima of tiles and one tile have indices."""
    if not x_RV.is_cpu or x_RV.shape[1] < 16 * width:
        return x_RV.max(dim=1)
    # The last tile ends with the row and may overlap the one before; among equals the earlier tile wins.
    last_R1 = x_RV[:, -width:].amax(dim=1, keepdim=True)
    best_R, tile_R = torch.cat([x_RV.unfold(1, width, width).amax(dim=-1), last_R1], dim=1).max(dim=1)
    start_R = (tile_R * width).clamp(max=x_RV.shape[1] - width)
    tile_RW = x_RV.gather(1, start_R[:, None] + torch.arange(width))
    return best_R, start_R + tile_RW.argmax(dim=1)
