"""LLaDA2.2's rule: fill, rewrite, delete and split, so that the tokens of a block may move. Pure.

Shapes: B rows, L block positions.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from unmask.decode.memory import Memory, State, Whole, empty
from unmask.decode.proposal import Proposal
from unmask.decode.rule import Commit, Look, ranks
from unmask.decode.settings import filled_field, number_field


class Rounds(NamedTuple):
    """Which masks a block began with, and how many steps it has had since none of them was left. Shapes [B, L]."""

    original: Whole  # 1 where a mask is one of those
    posts: Whole  # the same at each position

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
        masked_BL, began_B1 = proposal.masked_BL, (proposal.step_B == 0)[:, None]
        original_BL = masked_BL & (began_B1 | (memory.original > 0))
        old_B1 = original_BL.sum(dim=1, keepdim=True)
        posts_BL = memory.posts * ~began_B1 + (old_B1 == 0)
        now = Rounds(original=original_BL.long(), posts=posts_BL)
        masks_B1 = masked_BL.sum(dim=1, keepdim=True)
        need_B1 = torch.where((old_B1 == 0) | self._last(proposal, now)[:, None], masks_B1, 1 + masks_B1 - old_B1)
        sure_BL = self._sure(proposal, self.threshold) & masked_BL
        best_BL = masked_BL & (ranks(proposal.confidence_BL, masked_BL) < need_B1)
        fill_BL = torch.where(sure_BL.sum(dim=1, keepdim=True) >= need_B1, sure_BL, best_BL)
        if self.edit_threshold is None:
            return fill_BL, now
        other_BL = self._token(proposal, now) != proposal.token_BL
        return fill_BL | (proposal.editable & self._sure(proposal, self.edit_threshold) & other_BL), now

    def settled(self, memory: Memory) -> Tensor:
        assert isinstance(memory, Rounds)
        return memory.posts[:, 0] >= self.max_post_steps

    def write(self, proposal: Proposal, taken_BL: Tensor, memory: Memory, mask_id: int) -> tuple[Tensor, Memory]:
        assert isinstance(memory, Rounds)
        written_BL = torch.where(taken_BL > 0, self._token(proposal, memory), proposal.token_BL)
        # The last round may come before the block's first masks are gone: nothing comes after it.
        last_B1 = self._last(proposal, memory)[:, None]
        posts_BL = torch.where(last_B1, memory.posts.clamp(min=self.max_post_steps), memory.posts)
        if not self.marks:
            return written_BL, Rounds(original=memory.original, posts=posts_BL)
        new_BL = taken_BL > 0
        gone_BL, split_BL = (new_BL & (written_BL == mark) for mark in self.marks)
        token_BL = moved(torch.where(split_BL, proposal.token_BL, written_BL), gone_BL, split_BL, fill=mask_id)
        original_BL = moved(memory.original, gone_BL, split_BL, fill=0) * (token_BL == mask_id)
        return token_BL, Rounds(original=original_BL, posts=posts_BL)

    def _sure(self, proposal: Proposal, threshold: float) -> Tensor:
        return proposal.confidence_BL > threshold if self.strict else proposal.confidence_BL >= threshold

    def _last(self, proposal: Proposal, now: Rounds) -> Tensor:
        """Rows [B] whose round this is the last of."""
        rounds = proposal.masked_BL.shape[1] + self.max_post_steps
        spent_B = (now.posts[:, 0] >= self.max_post_steps) & (now.posts[:, 0] > 0)
        return spent_B | (proposal.step_B >= rounds - 1)

    def _token(self, proposal: Proposal, now: Rounds) -> Tensor:
        """What each position would become: no mark in the last round, nor before what is fixed."""
        if proposal.plain_BL is None:
            return proposal.candidate_BL
        held_BL = proposal.fixed_BL.flip(1).cumsum(dim=1).flip(1) > 0
        return torch.where(self._last(proposal, now)[:, None] | held_BL, proposal.plain_BL, proposal.candidate_BL)
