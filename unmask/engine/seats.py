"""What the device knows of each row from forward to forward, so that a block forward need only be told who takes part.

A row has a seat as it has pages: lent when it joins, its own until it leaves. A block's first forward fills it in; every
forward reads it and writes back in place what it decided, so nothing that a forward returns has to outlive the next one.

Shapes: S seats, the last of which is nobody's (padding reads and writes it); B rows of a forward; F facts and P pages of a
row; L the longest block.
"""

import struct
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from unmask.decode.memory import Memory, State
from unmask.decode.rule import Rule
from unmask.decode.step import Outcome
from unmask.engine.recipe import Recipe
from unmask.engine.row import Row

Number = TypeVar("Number", int, Tensor)


class Facts(NamedTuple, Generic[Number]):
    """What stays as it is for a block: whole numbers of one row on the host, columns [B] on the device.

    Attributes:
        begin: the slot at which a block forward's query begins, before the block by the model's lookbehind.
        seen: slots that the row sees.
        suffix: how many of them lie behind the block.
        copies: the slot behind which drafts keep their copies.
        before: the token at `begin`.
        offset: where the block stands in the answer.
        seed, temperature, top_p, top_k: how it is sampled; the floats as the bits of a float64.
    """

    begin: Number
    seen: Number
    suffix: Number
    copies: Number
    before: Number
    offset: Number
    seed: Number
    temperature: Number
    top_p: Number
    top_k: Number

    @classmethod
    def of(cls, row: Row) -> "Facts[int]":
        plan, request, end = row.plan(), row.request, row.begin + row.recipe.length
        begin = row.begin - row.recipe.lookbehind
        return Facts(
            begin=begin,
            seen=len(plan.positions),
            suffix=len(plan.positions) - end,
            copies=row.total,
            before=row.canvas.tokens[begin],
            offset=row.begin - row.canvas.prompt,
            seed=request.seed,
            temperature=_bits(request.temperature),
            top_p=_bits(1.0 if request.top_p is None else request.top_p),
            top_k=row.model.spec.vocab_size if request.top_k is None else request.top_k,
        )


FACTS = len(Facts._fields)


def _bits(number: float) -> int:
    (whole,) = struct.unpack("<q", struct.pack("<d", number))
    return int(whole)


class Seats:
    """Seats for this many rows; `nobody` is the one that no row holds, and its pages are the pool's scratch page."""

    def __init__(self, rows: int, *, scratch: int, device: torch.device) -> None:
        self.nobody, self._scratch = rows, scratch
        self._free = list(range(rows))

        def table(dtype: torch.dtype) -> Tensor:
            return torch.zeros((rows + 1, 0), dtype=dtype, device=device)

        self._facts_FS = torch.zeros((FACTS, rows + 1), dtype=torch.int64, device=device)
        self._facts_FS[Facts._fields.index("seen"), rows] = 1
        self._step_S = torch.zeros(rows + 1, dtype=torch.int64, device=device)
        self._pages_SP = table(torch.int64)
        self._window_SL = table(torch.int64)
        # The state of each rule by its place in the method and its kind. Confidences of every precision go into float64
        # and come back as they were.
        self._states: dict[tuple[int, type[State]], State] = {}
        self._candidate_SL, self._score_SL = table(torch.int64), table(torch.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """P and L; where they change, the tables have moved."""
        return self._pages_SP.shape[1], self._window_SL.shape[1]

    def take(self, length: int, pages: int) -> int:
        """A seat for blocks of this length and that many pages; the caller knows that there is one."""
        widest, longest = self.shape
        longer = max(0, length - longest)
        wider = max(0, widened(pages) - widest)
        if wider:
            self._pages_SP = pad(self._pages_SP, (0, wider))
            self._pages_SP[self.nobody] = self._scratch
        if longer:
            self._window_SL, self._candidate_SL, self._score_SL = (
                pad(table, (0, longer)) for table in (self._window_SL, self._candidate_SL, self._score_SL)
            )
            self._states = {
                key: type(state)(*(pad(table, (0, longer)) for table in state)) for key, state in self._states.items()
            }
        return self._free.pop()

    def give(self, seat: int) -> None:
        self._free.append(seat)

    def fill(self, seats_B: Tensor, facts_BF: Tensor, pages_BP: Tensor, mask_id: int) -> None:
        """Before a block's first forward: what its forwards will need, no step made, all masked."""
        self._facts_FS.index_copy_(1, seats_B, facts_BF.t())
        self._pages_SP.index_copy_(0, seats_B, pages_BP)
        self._step_S.index_fill_(0, seats_B, 0)
        self._window_SL.index_fill_(0, seats_B, mask_id)

    def facts(self, seats_B: Tensor) -> Facts[Tensor]:
        return Facts(*self._facts_FS.index_select(1, seats_B).unbind(0))

    def pages(self, seats_B: Tensor, widest: int) -> Tensor:
        """The first pages of each row, [B, widest]."""
        return _rows(self._pages_SP, seats_B, widest)

    def step(self, seats_B: Tensor) -> Tensor:
        """Commit steps made in the block, [B]."""
        return self._step_S.index_select(0, seats_B)

    def window(self, seats_B: Tensor, length: int) -> Tensor:
        """The block's tokens, [B, L]."""
        return _rows(self._window_SL, seats_B, length)

    def guess(self, seats_B: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Candidates and scores [B, L] of the newest evidence; kept only where drafts are made from it."""
        return _rows(self._candidate_SL, seats_B, length), _rows(self._score_SL, seats_B, length)

    def memories(self, seats_B: Tensor, recipe: Recipe, precision: torch.dtype) -> tuple[Memory, ...]:
        """What each rule carries. A state begins afresh by itself, so a new row may find another's here."""
        return tuple(self._memory(seats_B, place, rule, recipe, precision) for place, rule in enumerate(recipe.rules))

    def _memory(self, seats_B: Tensor, place: int, rule: Rule, recipe: Recipe, precision: torch.dtype) -> Memory:
        if rule.state is None:
            return None
        rows = (_rows(table, seats_B, recipe.length) for table in self._state(place, rule.state))
        return rule.state(*(part.to(precision) if part.is_floating_point() else part for part in rows))

    def _state(self, place: int, kind: type[State]) -> State:
        if (place, kind) not in self._states:
            seats, longest = self._window_SL.shape
            self._states[place, kind] = kind.empty(seats, longest, self._window_SL.device, torch.float64)
        return self._states[place, kind]

    def keep(self, seats_B: Tensor, outcome: Outcome, recipe: Recipe) -> None:
        """What a forward decided becomes what the next one starts from."""
        kept = [(self._window_SL, outcome.window_BL)]
        for place, memory in enumerate(outcome.memories):
            if memory is not None:
                kept += zip(self._state(place, type(memory)), memory, strict=True)
        if recipe.branches > 1:
            kept += [(self._candidate_SL, outcome.last.candidate_BL), (self._score_SL, outcome.last.score_BL)]
        for table, part_BL in kept:
            table[:, : recipe.length].index_copy_(0, seats_B, part_BL.to(table.dtype))
        self._step_S.index_copy_(0, seats_B, outcome.step_B)


def widened(pages: int) -> int:
    """Width of the page tables that hold rows of this many: they double, so that longer prompts seldom change them.

    >>> [widened(pages) for pages in (0, 1, 5, 64)]
    [0, 1, 8, 64]
    """
    return 2 ** (pages - 1).bit_length() if pages else 0


def _rows(table_SL: Tensor, seats_B: Tensor, length: int) -> Tensor:
    return table_SL[:, :length].index_select(0, seats_B)
