"""One pass over the vocabulary: the most probable token of each position, and its confidence.

Shapes: B rows, L positions, V vocabulary; R rows of logits; C classes of tokens; H lines of W places, N segments.
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


# --- by class ---------------------------------------------------------------------------------------------------------

_WIDTH = 64  # of the lines that a class's tokens lie in: shorter ones take longer to reduce
_LOG2E = 1.4426950408889634


class Segments(NamedTuple):
    """Places that belong to segments, in lines of one width: a reduction over any number of places is two over a few.

    Attributes:
        place_HW: the places; a line that is not full repeats its last one.
        counts_HW: 1 for those that count, else 0.
        segment_H: the segment of each line.
        size: how many segments there are; one may have no place.
    """

    place_HW: Tensor
    counts_HW: Tensor
    segment_H: Tensor
    size: int

    @classmethod
    def of(cls, place_E: Tensor, segment_E: Tensor, count: int, width: int = 16) -> "Segments":
        """Of places, each with its segment.

        >>> Segments.of(torch.tensor([4, 7, 5]), torch.tensor([1, 0, 1]), 2, width=2).place_HW.tolist()
        [[7, 7], [4, 5]]
        """
        order = segment_E.argsort(stable=True)
        place_E, size_N = place_E[order], segment_E.bincount(minlength=count)
        lines_N = (size_N + width - 1) // width
        segment_H = torch.arange(count, device=place_E.device).repeat_interleave(lines_N)
        first_H = torch.arange(len(segment_H), device=place_E.device) - (lines_N.cumsum(0) - lines_N)[segment_H]
        begin_H = (size_N.cumsum(0) - size_N)[segment_H] + first_H * width
        last_H = size_N.cumsum(0)[segment_H] - 1
        index_HW = begin_H[:, None] + torch.arange(width, device=place_E.device)
        counts_HW = (index_HW <= last_H[:, None]).to(torch.float32)
        return cls(place_E[index_HW.minimum(last_H[:, None])], counts_HW, segment_H, count)

    def parts(self, x_RX: Tensor) -> Tensor:
        """The values at the places, [R, H, W]."""
        return x_RX.index_select(1, self.place_HW.flatten()).view(len(x_RX), *self.place_HW.shape)

    def largest(self, x_RH: Tensor) -> Tensor:
        """The largest of each segment's lines, [R, N]; -inf where there is none."""
        none_RN = x_RH.new_full((len(x_RH), self.size), -torch.inf)
        return none_RN.scatter_reduce(1, self.segment_H.expand_as(x_RH), x_RH, "amax")

    def sums(self, x_RH: Tensor) -> Tensor:
        """The sum of each segment's lines, [R, N]."""
        return x_RH.new_zeros((len(x_RH), self.size)).scatter_add(1, self.segment_H.expand_as(x_RH), x_RH)

    def maxima(self, x_RX: Tensor) -> Tensor:
        """The largest value of each segment, [R, N]."""
        return self.largest(self.parts(x_RX).amax(dim=2))

    def logsumexp(self, x_RX: Tensor) -> Tensor:
        """The logarithm of the sum of each segment's exponentials, [R, N]."""
        part_RH = self.parts(x_RX).masked_fill(self.counts_HW == 0, -torch.inf).logsumexp(dim=2)
        most_RN = self.largest(part_RH)
        share_RH = (part_RH - most_RN.index_select(1, self.segment_H)).nan_to_num(nan=-torch.inf)  # of -inf minus -inf
        return most_RN + self.sums(share_RH.exp()).clamp(min=1.0).log()


class Classes(NamedTuple):
    """Tokens by class; the largest class is not among the segments, since a maximum over all tokens mostly finds its own.

    Attributes:
        class_V: of each token; class 0, in which the mask is, is never asked for.
        segments: the tokens of every class but the largest; the mask does not count.
        largest: that class.
        outside_V: 0 for its tokens, -inf for all others.
        member: one of its tokens.
    """

    class_V: Tensor
    segments: Segments
    largest: int
    outside_V: Tensor
    member: int

    @classmethod
    def of(cls, class_V: Tensor, count: int, mask_id: int) -> "Classes":
        """Of the class of each token; waits for the device."""
        largest = int(class_V.bincount(minlength=count).argmax())
        outside_V = class_V != largest
        (token_E,) = outside_V.nonzero(as_tuple=True)
        bias_V = torch.zeros(len(class_V), device=class_V.device).masked_fill(outside_V, -torch.inf)
        segments = Segments.of(token_E, class_V[token_E], count, width=_WIDTH)
        segments.counts_HW[segments.place_HW == mask_id] = 0.0
        return cls(class_V, segments, largest, bias_V, int((~outside_V).int().argmax()))


class ByClass(NamedTuple):
    """What rows of logits say of each class.

    Attributes:
        maxima_RC: its largest logit.
        mass_RC: its share of the softmax, without the mask's; 0 for the largest class, which has what the others leave.
        line_RH, top_R: by which `token_of_class` finds the tokens.
    """

    maxima_RC: Tensor
    mass_RC: Tensor
    line_RH: Tensor
    top_R: Tensor


def by_class(logits_RV: Tensor, classes: Classes, candidate_R: Tensor, logsumexp_R1: Tensor) -> ByClass:
    """Each class's largest logit and its share. `candidate_R` is each row's most probable token, as `evidence` finds it.

    >>> classes = Classes.of(torch.tensor([0, 1, 1, 1, 2]), 3, mask_id=0)
    >>> logits = torch.tensor([[1.0, 5.0, 3.0, 2.0, 4.0]])
    >>> seen = by_class(logits, classes, torch.tensor([1]), logits.logsumexp(1, keepdim=True))
    >>> seen.maxima_RC.tolist(), token_of_class(logits, classes, seen, torch.tensor([2])).tolist()
    ([[1.0, 5.0, 4.0]], [4])
    """
    segments = classes.segments
    # Piece by piece, as in `evidence`.
    pieces = max(1, len(logits_RV) * segments.place_HW.numel() >> 20) if logits_RV.is_cpu else 1
    found = [_lines(*part, segments) for part in zip(logits_RV.chunk(pieces), logsumexp_R1.chunk(pieces), strict=True)]
    line_RH, share_RH = found[0] if len(found) == 1 else map(torch.cat, zip(*found, strict=True))
    maxima_RC, mass_RC = segments.largest(line_RH), segments.sums(share_RH)
    top_R = candidate_R if classes.largest == 0 else _top(logits_RV, classes, candidate_R)
    maxima_RC[:, classes.largest] = logits_RV.gather(1, top_R[:, None])[:, 0]
    return ByClass(maxima_RC, mass_RC, line_RH, top_R)


def _lines(logits_RV: Tensor, logsumexp_R1: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """The largest logit of each line, and its share of the softmax, [R, H] each."""
    part_RHW = segments.parts(logits_RV)
    line_RH = part_RHW.amax(dim=2)
    # In place, and to the base of 2: that takes PyTorch a third of the time, and a share decides no rank.
    power_RHW = torch.add(logsumexp_R1[..., None] * -_LOG2E, part_RHW, alpha=_LOG2E, out=part_RHW)
    return line_RH, power_RHW.exp2_().mul_(segments.counts_HW).sum(dim=2)


def _top(logits_RV: Tensor, classes: Classes, candidate_R: Tensor) -> Tensor:
    """The most probable token of the largest class in each row: mostly the row's own."""
    outside_R = classes.class_V[candidate_R] != classes.largest
    # On a CPU only those rows are searched; elsewhere all of them, so that nothing waits for the device.
    rows_R = outside_R.nonzero()[:, 0] if logits_RV.is_cpu else torch.arange(len(logits_RV), device=logits_RV.device)
    if not len(rows_R):
        return candidate_R
    token_R = _largest(logits_RV[rows_R] + classes.outside_V)[1]
    token_R = torch.where(classes.class_V[token_R] == classes.largest, token_R, classes.member)  # where all are -inf
    return candidate_R.index_copy(0, rows_R, token_R)


def token_of_class(logits_RV: Tensor, classes: Classes, seen: ByClass, class_R: Tensor) -> Tensor:
    """The most probable token of one class in each row, [R]; the lowest id among equals."""
    segments = classes.segments
    if not len(segments.segment_H):
        return seen.top_R
    own_RH = segments.segment_H == class_R[:, None]
    line_R = seen.line_RH.masked_fill(~own_RH, -torch.inf).argmax(dim=1)
    # Where all its logits are -inf the class's first line is taken.
    line_R = torch.where(own_RH.gather(1, line_R[:, None])[:, 0], line_R, own_RH.to(torch.uint8).argmax(dim=1))
    token_RW = segments.place_HW[line_R]
    inside_R = token_RW.gather(1, logits_RV.gather(1, token_RW).argmax(dim=1, keepdim=True))[:, 0]
    return torch.where(class_R == classes.largest, seen.top_R, inside_R)
