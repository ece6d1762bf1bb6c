"""What the device knows of each request from forward to forward, so that a block forward need only be given its rows.

A request has an index here as it has pages: lent when it joins, its own until it leaves. A block's first forward fills in
its place; every forward reads it and writes back in place what it decided, so nothing that a forward returns has to outlive
the next one. It knows no rule: a rule's state is kept as the rule declares it (decode/memory.py).

Shapes: S places, the last of which is padding, which no request holds; B rows of a forward; F facts and P pages of a row; L
the longest window; K states of a window, T = K + 1 versions of it: the true state, the finished block before it, the drafts.
"""

from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from unmask.context.plan import ship
from unmask.decode.advance import Outcome, drafts
from unmask.decode.memory import Memory, State
from unmask.decode.numbers import MOST, bits, numbers, of_rows
from unmask.engine.state import RequestState
from unmask.methods.recipe import Structure

Number = TypeVar("Number", int, Tensor)


class Facts(NamedTuple, Generic[Number]):
    """What stays as it is for a window: whole numbers of one row on the host, columns [B] on the device.

    Attributes:
        begin: the slot at which a block forward's query begins, before the block by the model's lookbehind.
        seen: slots that the row sees.
        suffix: how many of them lie behind the window.
        apart: how far behind the slots of a draft's query its copy is kept, but for the length of a query per further draft.
        before: the token at `begin`.
        offset: where the window stands in the answer; below 0 where it holds the prompt's end.
        stays, moved: how many of its tokens were in the row's last window too, and how far behind its beginning.
        seed, temperature, top_p, top_k: how it is sampled; the floats as the bits of a float64.
    """

    begin: Number
    seen: Number
    suffix: Number
    apart: Number
    before: Number
    offset: Number
    stays: Number
    moved: Number
    seed: Number
    temperature: Number
    top_p: Number
    top_k: Number

    @classmethod
    def of(cls, row: RequestState) -> "Facts[int]":
        """Of a request that stands before its window's first forward."""
        window, request = row.window, row.request
        plan = row.policy(window, 1)  # of all forwards but its first
        begin = window.start - window.lookbehind
        return Facts(
            begin=begin,
            seen=len(plan.positions),
            suffix=len(plan.positions) - window.end,
            apart=window.total - window.end,
            before=row.canvas.tokens[begin],
            offset=window.start - window.prompt,
            stays=max(0, window.end - window.start - row.moved) if row.moved else 0,
            moved=row.moved,
            seed=request.seed,
            temperature=bits(request.temperature),
            top_p=bits(1.0 if request.top_p is None else request.top_p),
            top_k=row.model.spec.vocab_size if request.top_k is None else request.top_k,
        )


WINDOW, CLEAN = 0, 1  # versions of a window; drafts stand behind them
FACTS = len(Facts._fields) + MOST  # and the rules' numbers
BATCHES = 64  # whose settings are kept


def row_facts(row: RequestState) -> list[int]:
    """All of them of a request that stands before its window's first forward."""
    own = numbers(row.recipe)
    return [*Facts.of(row), *own, *[1] * (MOST - len(own))]


class DeviceState:
    """Places for this many requests; `padding` is the index that none holds, and its pages are the pool's scratch page."""

    def __init__(self, rows: int, *, pages: int, scratch: int, dtype: torch.dtype, device: torch.device) -> None:
        """`pages` are as many as a row is likely to have at most: tables that need not grow need not move.

        `dtype` is the logits'.
        """
        self.padding, self._scratch, self._dtype = rows, scratch, dtype
        self._free = list(range(rows))

        def table(dtype: torch.dtype) -> Tensor:
            return torch.zeros((rows + 1, 0), dtype=dtype, device=device)

        self._facts_FS = torch.zeros((FACTS, rows + 1), dtype=torch.int64, device=device)
        self._facts_FS[Facts._fields.index("seen"), rows] = 1
        self._facts_FS[-MOST:, rows] = 1  # a number that divides
        self._pages_SP = torch.zeros((rows + 1, pages), dtype=torch.int64, device=device)
        self._pages_SP[rows] = scratch
        self._step_SL = table(torch.int64)  # of each position's block
        self._kind_SL = table(torch.int64)
        self._tokens_STL = torch.zeros((rows + 1, CLEAN + 1, 0), dtype=torch.int64, device=device)
        # By the rule's place among its method's rules, the kind of its state, and the precision of its real numbers.
        self._memories: dict[tuple[int, type[State], torch.dtype], State] = {}
        self._settings: dict[tuple[Structure, tuple[int, ...]], Structure] = {}  # of rows that have decided together

    @property
    def shape(self) -> tuple[int, int, int]:
        """P, L and T; where they change, the tables have moved."""
        return self._pages_SP.shape[1], self.longest, self._tokens_STL.shape[1]

    @property
    def longest(self) -> int:
        """L."""
        return self._kind_SL.shape[1]

    @property
    def page_table(self) -> Tensor:
        """The pages of all places, [S, P]."""
        return self._pages_SP

    def take(self, structure: Structure, pages: Sequence[int] = ()) -> int:
        """An index for a request of this structure that is lent these pages; the caller knows that there is one."""
        self._make_room(structure, len(pages))
        self._settings.clear()  # of the row that had the place before
        index = self._free.pop()
        if pages:
            (self._pages_SP[index, : len(pages)],) = ship([pages], device=self._pages_SP.device)
        return index

    def _make_room(self, structure: Structure, pages: int) -> None:
        """Tables that hold a request of this structure and that many pages."""
        widest, longest, most = self.shape
        longer, wider = max(0, structure.width - longest), widened(pages) - widest if pages > widest else 0
        if structure.branches + 1 > most:
            self._tokens_STL = pad(self._tokens_STL, (0, 0, 0, widened(structure.branches) + 1 - most))
        if wider:
            self._pages_SP = pad(self._pages_SP, (0, wider))
            self._pages_SP[self.padding] = self._scratch
        if longer:
            self._tokens_STL, self._kind_SL, self._step_SL = (
                pad(table, (0, longer)) for table in (self._tokens_STL, self._kind_SL, self._step_SL)
            )
            for key, tables in self._memories.items():
                self._memories[key] = type(tables)(*(_longer(table, longer) for table in tables))
        for key in self._states(structure):
            if key not in self._memories:
                self._memories[key] = self._empty(key[1], self.padding + 1, key[2])

    def give(self, index: int) -> None:
        """Take an index back."""
        self._free.append(index)

    def open(self, index_B: Tensor, facts_BF: Tensor, window_BL: Tensor, kind_BL: Tensor) -> None:
        """Before a window's first forward: what its forwards will need, its tokens, and their kinds (decode/holes.py).

        Of a block that is new to the window no step is made and every rule's state is new.
        """
        stays_B1, moved_B1 = (facts_BF[:, Facts._fields.index(name), None] for name in ("stays", "moved"))
        self._facts_FS.index_copy_(1, index_B, facts_BF.t())
        self._tokens_STL[:, WINDOW].index_copy_(0, index_B, window_BL)
        self._kind_SL.index_copy_(0, index_B, kind_BL)
        kept = [(self._step_SL, torch.zeros_like(window_BL))]
        for (_, kind, precision), tables in self._memories.items():
            kept += zip(tables, self._empty(kind, len(index_B), precision), strict=True)
        place_BL = torch.arange(window_BL.shape[1], device=window_BL.device).expand_as(window_BL)
        from_BL = torch.where(place_BL < stays_B1, place_BL + moved_B1, 0)
        for table, new in kept:  # [B, L], or more numbers per place
            stays = (place_BL < stays_B1).view(*place_BL.shape, *(1 for _ in new.shape[2:]))
            table.index_copy_(0, index_B, torch.where(stays, table[index_B[:, None], from_BL], new))

    def open_behind(self, index_B: Tensor, clean_BL: Tensor) -> None:
        """Before a forward that queries the finished block before the rows' own too: its tokens."""
        self._tokens_STL[:, CLEAN].index_copy_(0, index_B, clean_BL)

    def facts(self, index_B: Tensor) -> Facts[Tensor]:
        """What `open` was given of the rows, columns [B]."""
        return self.known(index_B)[0]

    def known(self, index_B: Tensor) -> tuple[Facts[Tensor], Tensor]:
        """The same, and the numbers of their rules as the bits that `numbers.bits` made of them, int64 [F, B]."""
        facts_FB = self._facts_FS.index_select(1, index_B)
        return Facts(*facts_FB[:-MOST].unbind(0)), facts_FB[-MOST:]

    def settings(self, structure: Structure, indices: tuple[int, ...], numbers_FB: Tensor) -> Structure:
        """A structure with the numbers of the rows at these places, made once as long as no other row comes."""
        key = structure, indices
        if key not in self._settings:
            if len(self._settings) == BATCHES:
                self._settings.clear()
            self._settings[key] = of_rows(structure, numbers_FB, self.precision(structure))
        return self._settings[key]

    def pages(self, index_B: Tensor) -> Tensor:
        """The pages of each row, as many as the longest may have, [B, P]."""
        return self._pages_SP.index_select(0, index_B)

    def step(self, index_B: Tensor, structure: Structure) -> Tensor:
        """Commit steps made in the block, [B], or in each of N, [B, N]."""
        return _rows(self._step_SL, index_B, structure.width)[:, :: structure.length].squeeze(1)

    def window(self, index_B: Tensor, length: int) -> Tensor:
        """The block's tokens, [B, L]."""
        return _rows(self._tokens_STL[:, WINDOW], index_B, length)

    def states(self, index_B: Tensor, structure: Structure, states: int) -> Tensor:
        """That many states of the block, [B, K, L]: the true one, then the drafts that the last evidence has led to."""
        window_BL = self.window(index_B, structure.width)
        if states == 1:
            return window_BL[:, None]
        drafted = slice(CLEAN + 1, CLEAN + states)
        drafts_BKL = self._tokens_STL[:, drafted, : structure.width].index_select(0, index_B)
        return torch.cat((window_BL[:, None], drafts_BKL), dim=1)

    def version(self, index: int, version: int) -> int:
        """The place of one version of a row's window among those of all rows, which `versions` is given."""
        return index * self._tokens_STL.shape[1] + version

    def versions(self, place_N: Tensor, length: int) -> Tensor:
        """The tokens of any versions of any windows, [N, L]."""
        return self._tokens_STL.flatten(0, 1).index_select(0, place_N)[:, :length]

    def kind(self, index_B: Tensor, length: int) -> Tensor:
        """What may be written at each of them, [B, L]."""
        return _rows(self._kind_SL, index_B, length)

    def precision(self, structure: Structure) -> torch.dtype:
        """Of confidences: float32 at least, or what the model or the method has."""
        return torch.promote_types(torch.promote_types(self._dtype, torch.float32), structure.precision)

    def memories(self, index_B: Tensor, structure: Structure) -> tuple[Memory, ...]:
        """What each rule carries."""

        def rows(table: Tensor) -> Tensor:
            return _rows(table, index_B, structure.width)

        kept = {place: type(tables)(*map(rows, tables)) for place, tables in self._tables(structure)}
        return tuple(kept.get(place) for place in range(len(structure.rules)))

    def keep(self, index_B: Tensor, outcome: Outcome, structure: Structure, mask_id: int) -> None:
        """What a forward decided becomes what the next one starts from, drafts included."""
        step_BN, window_BL = outcome.step_B.view(len(index_B), -1), outcome.window_BL
        kept = [
            (self._tokens_STL[:, WINDOW], window_BL),
            (self._step_SL, step_BN.repeat_interleave(structure.length, dim=1)),
        ]
        for place, tables in self._tables(structure):
            memory = outcome.memories[place]
            assert memory is not None, "a rule that carries a state hands it back"
            kept += zip(tables, memory, strict=True)
        if structure.branches > 1:
            guess = outcome.last.candidate_BL, outcome.last.score_BL
            made_BKL = drafts(window_BL, *guess, structure.branches, mask_id, structure.blocks)[:, 1:]
            self._tokens_STL[:, CLEAN + 1 : CLEAN + structure.branches, : structure.width].index_copy_(0, index_B, made_BKL)
        for table, part_BL in kept:
            table[:, : structure.width].index_copy_(0, index_B, part_BL.to(table.dtype))

    def _empty(self, kind: type[State], rows: int, precision: torch.dtype) -> State:
        return kind.empty(rows, self.longest, self._kind_SL.device, precision)

    def _tables(self, structure: Structure) -> Iterator[tuple[int, State]]:
        """The places of the rules that carry a state, and its tables."""
        return ((key[0], self._memories[key]) for key in self._states(structure))

    def _states(self, structure: Structure) -> Iterator[tuple[int, type[State], torch.dtype]]:
        precision = self.precision(structure)
        return ((place, rule.state, precision) for place, rule in enumerate(structure.rules) if rule.state is not None)


def widened(pages: int) -> int:
    """Width of the page tables that hold rows of this many: they double, so that longer prompts seldom change them.

    >>> [widened(pages) for pages in (0, 1, 5, 64)]
    [0, 1, 8, 64]
    """
    return 2 ** (pages - 1).bit_length() if pages else 0


def _rows(table_SL: Tensor, index_B: Tensor, length: int) -> Tensor:
    return table_SL[:, :length].index_select(0, index_B)


def _longer(table_SL: Tensor, more: int) -> Tensor:
    """With that many further positions, of zeros; what a rule keeps of each may be more than one number."""
    return pad(table_SL, (*(0 for _ in 2 * table_SL.shape[2:]), 0, more))
