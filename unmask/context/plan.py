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

Shapes: N query tokens of all rows together, M of them remembered, R tokens to predict, B queries of a group, P pages.
"""

import itertools
from array import array
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from unmask.context.past import Past as Past
from unmask.context.pieces import Piece, Stretches, chained, kind, laid_out, packed, reading, starts_of
from unmask.context.policy import RowPlan
from unmask.context.query import Query as Query
from unmask.context.runs import Run


def entire(tokens: Sequence[int], start: int, end: int, *, block: int | None = None) -> Query:
    """A forward over a whole row that remembers nothing and predicts the tokens from `start` to `end`.

    `block` is the model's attention pattern (`ModelSpec.block`).
    """
    return Query(RowPlan(list(range(len(tokens))), slice(0, len(tokens)), block), tokens, start, end - start)


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


Part = TypeVar("Part")


class _Numbers(NamedTuple, Generic[Part]):
    """All that the device must know of a forward: lists of whole numbers on the host, tensors once shipped."""

    tokens: Part  # N
    stretches: Part  # 4 x G
    read: Part  # R
    before: Part  # R
    starts: Part  # of all runs of whole sequences
    pages: Part  # rows x P
    past: Part  # 5 per query that remembers, group by group


def assemble(queries: Sequence[Query], *, device: torch.device) -> tuple[Tensor, ForwardPlan]:
    """Pack rows of any length, block and phase into one forward: its tokens, int64 [N], and its plan.

    The tokens of every state are the row's own; a decode that drafts puts the guesses in at `read`.
    """
    pieces = packed(queries)
    read, before = reading(queries, pieces)
    groups = [list(group) for _, group in itertools.groupby(pieces, key=lambda piece: kind(piece.query))]
    widest = max(1, *(len(query.pages) for query in queries))
    starts = _starts(pieces) if device.type != "cpu" else []
    host = _Numbers(
        tokens=chained(piece.query.tokens for piece in pieces),
        stretches=chained(Stretches.of(pieces)),
        read=read,
        before=before,
        starts=chained(starts),
        pages=page_table([query.pages for query in queries], widest),
        past=chained((piece.row, *piece.past) for piece in pieces if not piece.query.alone),
    )
    numbers = _Numbers(*ship(host, device=device))
    pages_QP = numbers.pages.view(-1, widest)
    remembered = sum(piece.query.plan.tokens for piece in pieces if piece.query.pages)
    positions_N, slots_M = laid_out(numbers.stretches.view(4, -1), pages_QP, len(host.tokens), remembered)
    plan = ForwardPlan(
        positions_N=positions_N,
        read_R=numbers.read,
        before_R=numbers.before,
        groups=_grouped(groups, numbers.past, pages_QP),
        slots_M=slots_M,
        starts=torch.split(numbers.starts.int(), [len(run) for run in starts]) if starts else (),
    )
    return numbers.tokens, plan


def _starts(pieces: Sequence[Piece]) -> list[list[int]]:
    """Of each run of whole sequences where they begin, and the last one ends, counted from the first."""
    runs = itertools.groupby(pieces, key=lambda piece: piece.query.alone and not piece.query.masked)
    return [starts_of(run) for whole, run in runs if whole]


def _grouped(groups: Sequence[Sequence[Piece]], past: Tensor, pages_QP: Tensor) -> tuple[Group, ...]:
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


def page_table(rows: Sequence[Sequence[int]], widest: int) -> list[int]:
    """Rows' pages, each row filled up to this many, one behind the other.

    >>> page_table([(5, 2), (7,)], 3)
    [5, 2, 0, 7, 0, 0]
    """
    return [page for pages in rows for page in (*pages, *[0] * (widest - len(pages)))]


def ship(numbers: Iterable[Sequence[int]], *, device: torch.device) -> tuple[Tensor, ...]:
    """Lists of whole numbers as int64 tensors on the device, in one copy that is not waited for."""
    parts = tuple(numbers)
    packed = stage(chained(parts), device).to(device, non_blocking=True)
    return torch.split(packed, [len(part) for part in parts])


def stage(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers where a copy to the device need not be waited for: on the host, pinned for a GPU."""
    if not numbers:
        return torch.empty(0, dtype=torch.int64)
    on_host = torch.frombuffer(array("q", numbers), dtype=torch.int64)  # torch.tensor takes seven times as long
    return on_host.pin_memory() if device.type == "cuda" else on_host
