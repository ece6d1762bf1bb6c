"""LLaDA2.2's rule: fill, rewrite, delete and split, so that the tokens of a block may move. Pure.

Shapes: B rows, L block positions, T steps that are remembered, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from unmask.decode.memory import TRACE, Memory, State, Trace, Whole, empty
from unmask.decode.proposal import Proposal, without
from unmask.decode.rule import Commit, Look, best, ranks
from unmask.decode.settings import Kind, filled_field, number_field


class Rounds(NamedTuple):
    """Which masks a block began with, how many steps it has had since none of them was left, and what it has been."""

    original: Whole  # 1 where a mask is one of those
    posts: Whole  # the same at each position
    states: Trace  # 1 + the token before each step, 0 before the block's first
    written: Trace  # 1 + the token that a step wrote, 0 where it wrote none

    @classmethod
    def empty(cls, rows: int, length: int, device: torch.device, dtype: torch.dtype) -> "Rounds":
        return empty(cls, rows, length, device, dtype)


def moved(value_BL: Tensor, gone_BL: Tensor, split_BL: Tensor, *, fill: int) -> Tensor:
    """The values [B, L] without those `gone`, and with a `fill` before those `split`; cut or filled up at the end.

    >>> gone, split = torch.tensor([[True, False, False, False]]), torch.tensor([[False, True, False, False]])
    >>> moved(torch.tensor([[1, 2, 3, 4]]), gone, split, fill=9)
    tensor([[9, 2, 3, 4]])
    """
    length = value_BL.shape[1]
    # The last of the places that a value takes is its own.
    place_BL = (1 + split_BL.long() - gone_BL.long()).cumsum(dim=1) - 1
    place_BL = torch.where(gone_BL, 2 * length, place_BL)
    room = value_BL.new_full((len(value_BL), 2 * length + 1), fill)
    return room.scatter(1, place_BL, value_BL)[:, :length]


@dataclass(frozen=True, kw_only=True)
class Indel(Commit):
    """LLaDA2.2's joint rule: masks are filled and tokens rewritten, and what is written may be DELETE or SPLIT.

    As SGLang has it (JointThresholdInDel). DELETE drops its position, and a mask comes in at the block's end; SPLIT puts a
    mask before the token that stood there, and the block's last token goes. One mask per step goes at least, and one more
    per mask that a move has brought; once the block's first masks are gone all do. The last round writes neither mark:
    `max_post_steps` after that, and at the latest L + `max_post_steps` after the block's beginning. Before a position that
    is fixed nothing moves.

    A block that is what it was before one of its last `TRACE` steps would go in circles: of the positions that would change,
    the least sure one becomes what it has not yet become in this block.

    Attributes:
        threshold: the least confidence of what fills a mask, or with `strict` what it must exceed.
        edit_threshold, max_post_steps: of the method's `edit`; None: no written token is rewritten.
        marks: the ids of DELETE and SPLIT; without them nothing moves.
    """

    name: ClassVar[str] = "indel"
    look: ClassVar[Look] = Look(
        label="indel",
        sentence="all that are sure, where a token may also go or make place",
        terminal="green",
        light="#0b9a6d",
        dark="#34d399",
    )
    edits: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    state: ClassVar[type[State] | None] = Rounds
    per_row: ClassVar[Mapping[str, Kind]] = {"threshold": "real", "edit_threshold": "real"}
    threshold: float = number_field(0.0, 1.0, default=0.5, search=(0.3, 1.0))
    edit_threshold: float | None = filled_field(None)
    max_post_steps: int = filled_field(0)
    marks: tuple[int, ...] = filled_field(())
    strict: bool = filled_field(False)

    @property
    def counted(self) -> bool:
        return True

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        assert isinstance(memory, Rounds)
        now = self._begun(proposal, memory)
        masked_BL, last_B1 = proposal.masked_BL, self._last(proposal, now)
        old_B1 = now.original.sum(dim=1, keepdim=True)
        masks_B1 = masked_BL.sum(dim=1, keepdim=True)
        need_B1 = torch.where((old_B1 == 0) | last_B1, masks_B1, 1 + masks_B1 - old_B1)
        sure_BL = self._sure(proposal, self.threshold) & masked_BL
        best_BL = masked_BL & (ranks(proposal.confidence_BL, masked_BL) < need_B1)
        fill_BL = torch.where(sure_BL.sum(dim=1, keepdim=True) >= need_B1, sure_BL, best_BL)
        if self.max_post_steps == 0:  # no round may follow the one that takes the last of the block's first masks
            over_B1 = (old_B1 > 0) & ~((now.original > 0) & ~fill_BL).any(dim=1, keepdim=True)
            fill_BL, last_B1 = torch.where(over_B1, masked_BL, fill_BL), last_B1 | over_B1
            now = now._replace(posts=torch.where(over_B1, 1, now.posts))
        if self.edit_threshold is None:
            return fill_BL, now
        other_BL = self._token(proposal, last_B1 | _held(proposal)) != proposal.token_BL
        return fill_BL | (proposal.editable & self._sure(proposal, self.edit_threshold) & other_BL), now

    def settled(self, memory: Memory) -> Tensor:
        assert isinstance(memory, Rounds)
        return memory.posts[:, 0] >= self.max_post_steps

    def write(self, proposal: Proposal, taken_BL: Tensor, memory: Memory, mask_id: int) -> tuple[Tensor, Memory]:
        assert isinstance(memory, Rounds)
        last_B1, new_BL = self._last(proposal, memory), taken_BL > 0
        plain_BL = last_B1 | _held(proposal)
        written_BL = torch.where(new_BL, self._token(proposal, plain_BL), proposal.token_BL)
        circles_BL = _seen(memory.states, proposal.token_BL) & ~plain_BL
        written_BL = _another(proposal, written_BL, circles_BL, memory.written, mask_id)
        # The last round may come before the block's first masks are gone: nothing comes after it.
        memory = memory._replace(
            posts=torch.where(last_B1, memory.posts.clamp(min=self.max_post_steps), memory.posts),
            states=_noted(memory.states, proposal.step_B, 1 + proposal.token_BL),
            written=_noted(memory.written, proposal.step_B, (1 + written_BL) * new_BL),
        )
        if not self.marks:
            return written_BL, memory
        gone_BL, split_BL = (new_BL & (written_BL == mark) for mark in self.marks)
        token_BL = moved(torch.where(split_BL, proposal.token_BL, written_BL), gone_BL, split_BL, fill=mask_id)
        original_BL = moved(memory.original, gone_BL, split_BL, fill=0) * (token_BL == mask_id)
        return token_BL, memory._replace(original=original_BL)

    def _begun(self, proposal: Proposal, memory: Rounds) -> Rounds:
        """The state at this step: new at a block's first, and one round further where none of its first masks is left."""
        began_B1 = (proposal.step_B == 0)[:, None]
        original_BL = proposal.masked_BL & (began_B1 | (memory.original > 0))
        goes_on_B11 = ~began_B1[..., None]
        return Rounds(
            original=original_BL.long(),
            posts=memory.posts * ~began_B1 + ~original_BL.any(dim=1, keepdim=True),
            states=memory.states * goes_on_B11,
            written=memory.written * goes_on_B11,
        )

    def _sure(self, proposal: Proposal, threshold: float) -> Tensor:
        return proposal.confidence_BL > threshold if self.strict else proposal.confidence_BL >= threshold

    def _last(self, proposal: Proposal, now: Rounds) -> Tensor:
        """Rows [B, 1] whose round this is the last of."""
        posts_B1, step_B1 = now.posts[:, :1], proposal.step_B[:, None]
        spent_B1 = posts_B1 >= max(1, self.max_post_steps)
        return spent_B1 | (step_B1 >= proposal.masked_BL.shape[1] + self.max_post_steps)

    def _token(self, proposal: Proposal, plain_BL: Tensor) -> Tensor:
        """What each position would become; no mark where that must be plain."""
        if not self.marks:
            return proposal.candidate_BL
        assert proposal.logits_BLV is not None
        return torch.where(plain_BL, without(proposal.logits_BLV, self.marks).argmax(dim=-1), proposal.candidate_BL)


def _another(proposal: Proposal, written_BL: Tensor, among_BL: Tensor, before_BLT: Tensor, mask_id: int) -> Tensor:
    """The block with another token at the least sure of these places that change: the likeliest never written there."""
    assert proposal.logits_BLV is not None
    chosen_BL = best(-proposal.confidence_BL, among_BL & (written_BL != proposal.token_BL))
    place_B11 = chosen_BL.to(torch.uint8).argmax(dim=1)[:, None, None]
    logits_BV, before_BT = (
        part.gather(1, place_B11.expand(-1, 1, part.shape[-1]))[:, 0] for part in (proposal.logits_BLV, before_BLT)
    )
    # Where nothing was written the mask's logit is set, which is the least as it is.
    logits_BV = logits_BV.scatter(1, torch.where(before_BT > 0, before_BT - 1, mask_id), -torch.inf)
    return torch.where(chosen_BL, logits_BV.argmax(dim=1, keepdim=True), written_BL)


def _held(proposal: Proposal) -> Tensor:
    """Positions [B, L] that are fixed or stand before one that is."""
    return proposal.fixed_BL.flip(1).cumsum(dim=1).flip(1) > 0


def _seen(states_BLT: Tensor, token_BL: Tensor) -> Tensor:
    """Whether the block was like this before an earlier step, [B, 1]."""
    return (states_BLT == 1 + token_BL[..., None]).all(dim=1).any(dim=1, keepdim=True)


def _noted(trace_BLT: Tensor, step_B: Tensor, value_BL: Tensor) -> Tensor:
    """The trace with the values of this step in the place of the oldest."""
    now_BL1 = (step_B % TRACE)[:, None, None].expand(-1, trace_BLT.shape[1], 1)
    return trace_BLT.scatter(2, now_BL1, value_BL[..., None])
