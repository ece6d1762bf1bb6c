"""Holes in fixed text: what may be written where, and what lies behind the end of a hole. Pure.

    kind of a position   FREE         any token; the first end ends the answer
                         GIVEN        nothing: the prompt, or fixed text
                         FILLED       any token but an end: its hole must be filled
                         EARLY + i    any token: hole i is over at its first end, and what lies behind that is filler

An end is one of the ids that end an answer. Where there are holes no end ends the answer.

Shapes: B rows, L window positions, R rows of logits, V vocabulary.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FREE, GIVEN, FILLED, EARLY = range(4)


class Gap(NamedTuple):
    """A hole: the positions [start, end) of the answer; `early`: whether it may end before its last one."""

    start: int
    end: int
    early: bool


def kinds(prompt: int, total: int, fixed: Collection[int], gaps: Sequence[Gap]) -> list[int]:
    """The kind of each of a row's positions; `fixed` and `gaps` are counted from the end of the prompt.

    >>> kinds(1, 8, {2}, [Gap(0, 2, early=False), Gap(3, 5, early=True)])
    [1, 2, 2, 1, 4, 4, 0, 0]
    """
    found = [GIVEN] * prompt + [GIVEN if offset in fixed else FREE for offset in range(total - prompt)]
    for number, gap in enumerate(gaps):
        for offset in range(gap.start, gap.end):
            found[prompt + offset] = EARLY + number if gap.early else FILLED
    return found


# --- on the device ----------------------------------------------------------------------------------------------------


def without_ends(logits_BLV: Tensor, kind_BL: Tensor, ends: Sequence[int]) -> Tensor:
    """Logits in which no end can be chosen where a hole must be filled; what is left shares the whole probability.

    >>> without_ends(torch.tensor([[[1.0, 3.0], [1.0, 3.0]]]), torch.tensor([[FILLED, EARLY]]), (1,)).argmax(-1).tolist()
    [[0, 1]]
    """
    offered = logits_BLV.clone()
    for token in ends:  # one by one: a list of ids would be copied to the device, which no captured graph may do
        offered[..., token].masked_fill_(kind_BL == FILLED, -torch.inf)
    return offered


def closed(window_BL: Tensor, taken_BL: Tensor, kind_BL: Tensor, ends: Sequence[int], mask_id: int) -> tuple[Tensor, Tensor]:
    """The windows with filler in place of every mask behind an end of its hole; the rule that took the end took them too.

    >>> kind, taken = torch.full((1, 4), EARLY), torch.tensor([[0, 2, 0, 0]])
    >>> closed(torch.tensor([[9, 7, 9, 5]]), taken, kind, (7,), mask_id=9)
    (tensor([[9, 7, 7, 5]]), tensor([[0, 2, 2, 0]]))
    """
    end_BL = torch.zeros_like(kind_BL, dtype=torch.bool)
    for token in ends:
        end_BL = end_BL | (window_BL == token)
    place = torch.arange(window_BL.shape[1], device=window_BL.device)
    same_BLL = kind_BL[:, :, None] == kind_BL[:, None, :]
    ended_BLL = same_BLL & (end_BL & (kind_BL >= EARLY))[:, None, :] & (place < place[:, None])
    behind_BL = ended_BLL.any(dim=2) & (window_BL == mask_id)
    rule_BL = torch.where(ended_BLL, taken_BL[:, None, :], 0).amax(dim=2)
    return torch.where(behind_BL, ends[0], window_BL), torch.where(behind_BL, rule_BL, taken_BL)


# --- on the host ------------------------------------------------------------------------------------------------------


def first_end(answer: Sequence[int], gap: Gap, ends: Collection[int]) -> int:
    """Where a hole ends in the answer as far as that is written: at its first end if it may, else with its last position.

    >>> first_end([5, 5, 7, 7], Gap(1, 4, early=True), (7,)), first_end([5, 5, 7, 7], Gap(1, 4, early=False), (7,))
    (2, 4)
    """
    written = min(gap.end, len(answer))
    if not gap.early:
        return written
    return next((place for place in range(gap.start, written) if answer[place] in ends), written)


def unneeded(answer: Sequence[int], gaps: Sequence[Gap], ends: Collection[int], mask_id: int) -> Iterator[int]:
    """The places of the answer that are masked behind the end of their hole.

    `closed` leaves none of them in the window; these lie in later blocks.

    >>> list(unneeded([5, 7, 9, 9, 9], [Gap(0, 4, early=True), Gap(4, 5, early=True)], (7,), mask_id=9))
    [2, 3]
    """
    for gap in gaps:
        if gap.early:
            yield from (place for place in range(first_end(answer, gap, ends), gap.end) if answer[place] == mask_id)
