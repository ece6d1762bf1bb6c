"""What queries remember of their rows: numbers on the device, and for plain attention the tables made of them.

Shapes: B queries of Q tokens, S slots that each of them sees, P pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unmask.context.pool import PAGE
from unmask.context.runs import Run
from unmask.kernels.paged import places


@dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """What each query of a group remembers, as numbers on the device: a kernel reads them, plain attention the tables below.

    Query b sees slots s < seen[b] of its row. Those that it queries anew, begin[b] <= s < end[b], it sees shift[b] slots
    further on, where its own copy of them is kept. Slot s of a row is slot pages[b, s // PAGE] * PAGE + s % PAGE of the pool.
    """

    pages_BP: Tensor  # int64 and contiguous, as all of them
    seen_B: Tensor
    begin_B: Tensor
    end_B: Tensor
    shift_B: Tensor
    shortest: int  # no query sees fewer slots than this, as far as the host knows
    longest: int  # S: and none more
    block: int | None = None  # queries are several blocks of that many tokens, which do not see the later ones
    length: int = 1  # tokens of a query
    states: int = 1  # so many queries one behind the other are states of one row, which differ in the slots anew alone
    runs: Sequence[Run | None] = ()  # all queries in their order, as far as the host knows where the pages are; None: one query

    @cached_property
    def keys(self) -> Tensor:
        """The slots of the pool that hold what each query sees, [B, S]."""
        slot_S = torch.arange(self.longest, device=self.seen_B.device)
        return places(slot_S, self.pages_BP, self.begin_B, self.end_B, self.shift_B, page=PAGE)

    @cached_property
    def visible(self) -> Tensor | None:
        """Which of them each of its tokens sees, [B, Q, S], or [B, 1, S] where all see the same; None: all."""
        if self.block is None and self.shortest == self.longest:
            return None
        slot_S = torch.arange(self.longest, device=self.seen_B.device)
        if self.block is None:
            return slot_S < self.seen_B[:, None, None]
        # The tokens of block-causal models have slots of their positions' numbers.
        place_Q = torch.arange(self.length, device=self.seen_B.device)
        number_BQ = torch.div(self.begin_B[:, None] + place_Q, self.block, rounding_mode="floor")
        return slot_S < (number_BQ * self.block + self.block)[..., None]

    @cached_property
    def together(self) -> "Past":
        """The same with one query per row for all its states: `shift` is that of the second one."""
        seen_B, begin_B, end_B, shift_B = (
            part.view(-1, self.states) for part in (self.seen_B, self.begin_B, self.end_B, self.shift_B)
        )
        return Past(
            pages_BP=self.pages_BP[:: self.states],
            seen_B=seen_B[:, 0].contiguous(),
            begin_B=begin_B[:, 0].contiguous(),
            end_B=end_B[:, 0].contiguous(),
            shift_B=shift_B[:, 1].contiguous(),
            shortest=self.shortest,
            longest=self.longest,
            length=self.length * self.states,
        )

    @cached_property
    def apart(self) -> "Past":
        """The same for queries of one block each."""
        assert self.block is not None, "queries of one block need not be split"
        blocks = self.length // self.block
        number_B = torch.arange(1, blocks + 1, device=self.seen_B.device).repeat(len(self.seen_B))
        pages_BP, begin_B, end_B, shift_B = (
            part.repeat_interleave(blocks, dim=0) for part in (self.pages_BP, self.begin_B, self.end_B, self.shift_B)
        )
        return Past(
            pages_BP=pages_BP,
            seen_B=begin_B + number_B * self.block,
            begin_B=begin_B,
            end_B=end_B,
            shift_B=shift_B,
            shortest=0,
            longest=self.longest,
        )
