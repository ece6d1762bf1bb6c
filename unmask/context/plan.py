"""What one forward over any rows sees and recomputes, as tensors; the rows' own plans become one here.

The queries of a forward lie packed, one behind the other without padding, so that a refresh of a thousand tokens and a
block of thirty-two cost what they hold. Only attention asks which tokens belong together: queries of one length attend as a
group.

A row's slots of key/value memory, and where the copies of its query lie when a forward tries K = 3 states of the block:

    slot   0 ......... begin ....... end ........ seen = copies
           [  prefix  ][ query       ][  suffix  ][ query of state 1 ][ query of state 2 ]
    state 0 sees, and writes, the query where it belongs              shift 0
    state 1 sees the same slots, but [begin, end) `shift` further on  shift copies - begin
    state 2 likewise                                                  shift copies - begin + (end - begin)

(With a pruned suffix a row sees fewer slots than it has positions: `copies` lies behind the slots of all of them.)

Shapes: N query tokens of all rows together, M of them remembered, R tokens to predict, B queries of a group, S slots that
each of them sees, P pages.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from unmask.context.policy import RowPlan
from unmask.context.pool import PAGE, pages_for
from unmask.context.runs import Run as Run
from unmask.kernels.paged import places, stored


class Query(NamedTuple):
    """What one row asks of a forward.

    Attributes:
        plan: the positions that exist for it, and which of them are queried.
        tokens: the ids at the queried positions.
        start, length: where its block stands; the block's tokens are predicted.
        states: how many states of the block to try (1 unless drafting). Each is a query of its own that sees its own copy
            of the queried positions and nothing of the others'.
        pages: the row's key/value memory; empty where nothing is remembered.
        copies: the slot of the row behind which the copies of the queried positions live.
        follows: whether the query before it is of the same row and ends where this one begins, so that its last token is
            the one before this one's first.

    A query of `length` 0 is of finished blocks, of which only keys and values are wanted. One of no tokens asks for the
    token behind the query that it follows, of which all its `length` predictions are made.
    """

    plan: RowPlan
    tokens: Sequence[int]
    start: int
    length: int
    states: int = 1
    pages: tuple[int, ...] = ()
    copies: int = 0
    follows: bool = False

    @property
    def alone(self) -> bool:
        """Whether its tokens attend to each other and to nothing else."""
        # Blocks that are remembered attend to their pages: there a kernel passes over the later ones.
        return self.plan.fresh and not (self.pages and self.masked)

    @property
    def masked(self) -> bool:
        """Whether it holds tokens that others of it do not see."""
        return self.plan.block is not None and self.plan.tokens > self.plan.block


def entire(tokens: Sequence[int], start: int, end: int, *, block: int | None = None) -> Query:
    """A forward over a whole row that remembers nothing and predicts the tokens from `start` to `end`.

    `block` is the model's attention pattern (`ModelSpec.block`).
    """
    return Query(RowPlan(list(range(len(tokens))), slice(0, len(tokens)), block), tokens, start, end - start)


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


class Group(NamedTuple):
    """Queries of one length, one behind the other, that attend in one call: to what is remembered, or to itself alone.

    `block` as in `Past`.
    """

    queries: int  # B
    length: int
    past: Past | None
    block: int | None = None

    @property
    def whole(self) -> bool:
        """Whether its queries are whole sequences of which every token sees every other."""
        return self.past is None and self.block is None


class ForwardPlan(NamedTuple):
    """One model call.

    The query tokens stand at `positions` (rotary position ids, gaps allowed). The fresh keys and values of the first M
    go to `slots` before any query attends. `read` says which of the N are to be predicted, row by row in the order of the
    rows, and `before` where the token before each of them is: the token itself where the forward does not have it. `starts`
    are of each run of groups that are whole sequences where these begin and the last one ends, counted from the first; they
    need not be known.
    """

    positions_N: Tensor  # int64
    read_R: Tensor  # int64
    before_R: Tensor  # int64
    groups: tuple[Group, ...]
    slots_M: Tensor  # int64
    starts: tuple[Tensor, ...] = ()  # int32


class _Piece(NamedTuple):
    """One state of a row's query, as it lies in the forward."""

    row: int  # number of its query
    query: Query
    state: int
    place: int  # of its first token among the N

    @property
    def shift(self) -> int:
        """How far behind their own slots its queried positions are kept."""
        query = self.query.plan.query
        return 0 if self.state == 0 else self.query.copies - query.start + (self.state - 1) * (query.stop - query.start)

    @property
    def slots(self) -> range:
        """The row's slots that it writes."""
        query = self.query.plan.query
        return range(query.start + self.shift, query.stop + self.shift)

    @property
    def predicted(self) -> list[int]:
        """The places of its block's tokens among the N; any place for a token that is not queried."""
        # Before the suffix a slot's number is its position, so the block's place in the query is a difference of the two.
        begin = self.place + self.query.start - self.query.plan.query.start
        first, last = self.place, self.place + self.query.plan.tokens - 1
        return [min(max(place, first), last) for place in range(begin, begin + self.query.length)]

    def before(self, last: int) -> list[int]:
        """The place of the token before each of those; `last` is that of the last token of the query before."""
        begin = last if self.query.follows else self.place
        return [place - 1 if place > self.place else begin for place in self.predicted]

    @property
    def in_one_piece(self) -> tuple[int, int] | None:
        """The pool's slot from which on all lies that it sees, and how many slots that are; None: it does not."""
        pages, seen = self.query.pages, len(self.query.plan.positions)
        whole = pages_for(seen)
        if self.shift or pages[:whole] != tuple(range(pages[0], pages[0] + whole)):
            return None
        return pages[0] * PAGE, seen

    @property
    def past(self) -> tuple[int, int, int, int, int]:
        """Row, and `seen`, `begin`, `end`, `shift` of `Past`."""
        plan = self.query.plan
        return self.row, len(plan.positions), plan.query.start, plan.query.stop, self.shift


Part = TypeVar("Part")


class _Numbers(NamedTuple, Generic[Part]):
    """All that the device must know of a forward: lists of whole numbers on the host, tensors once shipped."""

    tokens: Part  # N
    positions: Part  # N
    read: Part  # R
    before: Part  # R
    owner: Part  # M: number of the row that remembers the token
    slot: Part  # M: its slot in that row
    starts: Part  # of all runs of whole sequences
    pages: Part  # rows x P
    past: Part  # 5 per query that remembers, group by group


def assemble(queries: Sequence[Query], *, device: torch.device) -> tuple[Tensor, ForwardPlan]:
    """Pack rows of any length, block and phase into one forward: its tokens, int64 [N], and its plan.

    The tokens of every state are the row's own; a decode that drafts puts the guesses in at `read`.
    """
    pieces = _packed(queries)
    read, before = _reading(queries, pieces)
    kept = [piece for piece in pieces if piece.query.pages]
    groups = [list(group) for _, group in itertools.groupby(pieces, key=lambda piece: _kind(piece.query))]
    widest = max(1, *(len(query.pages) for query in queries))
    starts = _starts(pieces) if device.type != "cpu" else []
    host = _Numbers(
        tokens=_chained(piece.query.tokens for piece in pieces),
        positions=_chained(piece.query.plan.queried for piece in pieces),
        read=read,
        before=before,
        owner=_chained([piece.row] * piece.query.plan.tokens for piece in kept),
        slot=_chained(piece.slots for piece in kept),
        starts=_chained(starts),
        pages=page_table([query.pages for query in queries], widest),
        past=_chained(piece.past for piece in pieces if not piece.query.alone),
    )
    numbers = _Numbers(*ship(host, device=device))
    pages_QP = numbers.pages.view(-1, widest)
    plan = ForwardPlan(
        positions_N=numbers.positions,
        read_R=numbers.read,
        before_R=numbers.before,
        groups=_grouped(groups, numbers.past, pages_QP),
        slots_M=stored(pages_QP, numbers.owner, numbers.slot, page=PAGE),
        starts=torch.split(numbers.starts.int(), [len(run) for run in starts]) if starts else (),
    )
    return numbers.tokens, plan


def _starts(pieces: Sequence[_Piece]) -> list[list[int]]:
    """Of each run of whole sequences where they begin, and the last one ends, counted from the first."""
    runs = itertools.groupby(pieces, key=lambda piece: piece.query.alone and not piece.query.masked)
    return [list(itertools.accumulate((piece.query.plan.tokens for piece in run), initial=0)) for whole, run in runs if whole]


def _reading(queries: Sequence[Query], pieces: Sequence[_Piece]) -> tuple[list[int], list[int]]:
    """`read` and `before` of a forward."""
    read, before = [], []
    places = {(piece.row, piece.state): piece for piece in pieces}
    last = 0  # of the query before
    for row, query in enumerate(queries):
        for state in range(query.states if query.length else 0):
            piece = places.get((row, state))
            read += [last] * query.length if piece is None else piece.predicted
            before += [last] * query.length if piece is None else piece.before(last)
        if query.plan.tokens:
            last = places[row, 0].place + query.plan.tokens - 1
    return read, before


def _packed(queries: Sequence[Query]) -> list[_Piece]:
    """Every state of every query, queries of a group behind each other."""
    pieces, place = [], 0
    asked = [(row, query) for row, query in enumerate(queries) if query.plan.tokens]
    for row, query in sorted(asked, key=lambda numbered: _kind(numbered[1])):
        for state in range(query.states):
            pieces.append(_Piece(row, query, state, place))
            place += query.plan.tokens
    return pieces


def _grouped(groups: Sequence[Sequence[_Piece]], past: Tensor, pages_QP: Tensor) -> tuple[Group, ...]:
    """The groups of a forward; those that remember take their numbers off `past` in turn."""
    made = []
    for pieces in groups:
        query = pieces[0].query
        plan, block = query.plan, query.plan.block if query.masked else None
        if query.alone:
            made.append(Group(len(pieces), plan.tokens, None, block))
            continue
        mine, past = past[: 5 * len(pieces)], past[5 * len(pieces) :]
        owner_B, seen_B, begin_B, end_B, shift_B = mine.view(-1, 5).t().contiguous().unbind(0)
        seen = [len(piece.query.plan.positions) for piece in pieces]
        widest = max(len(piece.query.pages) for piece in pieces)
        states = {piece.query.states for piece in pieces}
        remembered = Past(
            pages_BP=pages_QP[:, :widest].index_select(0, owner_B),
            seen_B=seen_B,
            begin_B=begin_B,
            end_B=end_B,
            shift_B=shift_B,
            shortest=min(seen),
            longest=max(seen),
            block=block,
            length=plan.tokens,
            states=states.pop() if len(states) == 1 else 1,
            runs=Run.joined(piece.in_one_piece for piece in pieces),
        )
        made.append(Group(len(pieces), plan.tokens, remembered, block))
    return tuple(made)


def _kind(query: Query) -> tuple[bool, int, int, int]:
    """What the queries of a group share; those that are remembered come first.

    What is seen is alike within a factor of two, so that no row pays for another's much longer prompt.
    """
    plan = query.plan
    seen = 0 if query.alone else len(plan.positions).bit_length()
    return not query.pages, seen, plan.tokens, (plan.block or 0) if query.masked else 0


def _chained(parts: Iterable[Sequence[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(parts))


def page_table(rows: Sequence[Sequence[int]], widest: int) -> list[int]:
    """Rows' pages, each row filled up to this many, one behind the other.

    >>> page_table([(5, 2), (7,)], 3)
    [5, 2, 0, 7, 0, 0]
    """
    return [page for pages in rows for page in (*pages, *[0] * (widest - len(pages)))]


def ship(numbers: Iterable[Sequence[int]], *, device: torch.device) -> tuple[Tensor, ...]:
    """Lists of whole numbers as int64 tensors on the device, in one copy that is not waited for."""
    parts = tuple(numbers)
    packed = stage(_chained(parts), device).to(device, non_blocking=True)
    return torch.split(packed, [len(part) for part in parts])


def stage(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers where a copy to the device need not be waited for: on the host, pinned for a GPU."""
    return torch.tensor(numbers, dtype=torch.int64, pin_memory=device.type == "cuda")
