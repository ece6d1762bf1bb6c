"""A packed forward in a bucket: its numbers in buffers of a few sizes, so that forwards of any rows have the same shapes.

All that `plan.assemble` has to know of lengths becomes data. Rows that see nothing but what they query lie behind each other,
and attention is told where each begins; what pads is one sequence more. Rows that see what they remember are cut into tiles of
so many tokens, of which each attends to its row like a query of its own: in a block-causal model they are its blocks, elsewhere
every token of a row sees the same. What pads is kept in a row of the page table whose pages are all the pool's scratch page.

Shapes: N tokens, G stretches, R tokens to predict, C sequences, B tiles, P pages of a row, S rows of the page table.
"""

from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from unmask.context.past import Past
from unmask.context.pieces import Piece, Stretches, chained, laid_out, packed, reading, starts_of
from unmask.context.plan import ForwardPlan, Group
from unmask.context.pool import PAGE
from unmask.context.query import Query

SIZES = (*range(64, 512, 64), *range(512, 2049, 128))  # tokens; of longer forwards the host is done before the device
FEW = 256  # tokens to predict, or a quarter of all of them if that is more
TILE = 32  # tokens, where all of a row see each other: a usual block
WHOLE = 0  # in place of a tile's tokens: every query is a sequence of its own

Part = TypeVar("Part")


class Numbers(NamedTuple, Generic[Part]):
    """What the device must know: lists of whole numbers on the host, parts of the buffer there.

    Attributes:
        tokens: N.
        end, position, slot, row: as in `Stretches`, G.
        read, before: as in `ForwardPlan`, R.
        starts: of whole sequences where they begin and the last one ends, C + 1.
        of, seen, begin, stop, shift: of each tile its row of the page table, and as in `Past`, B.
    """

    tokens: Part
    end: Part
    position: Part
    slot: Part
    row: Part
    read: Part
    before: Part
    starts: Part
    of: Part
    seen: Part
    begin: Part
    stop: Part
    shift: Part

    @classmethod
    def asked(cls, queries: Sequence[Query], rows: Sequence[int], tile: int, padding: int) -> "Numbers[list[int]]":
        """Of queries that have these rows of the page table; what lies between them is of the row `padding`."""
        pieces = packed(queries, max(1, tile))
        tokens = list[int]()
        for piece in pieces:
            tokens += [0] * (piece.place - len(tokens))
            tokens += piece.query.tokens
        tiles = [] if tile == WHOLE else chained([_tiles(piece, rows[piece.row], tile) for piece in pieces])
        return Numbers(
            tokens,
            *Stretches.of(pieces, rows, padding=padding),
            *reading(queries, pieces),
            starts_of(pieces) if tile == WHOLE else [],
            *([numbers[place] for numbers in tiles] for place in range(5)),
        )


def _tiles(piece: Piece, row: int, tile: int) -> list[tuple[int, ...]]:
    """Of each tile of a piece its row, and `seen`, `begin`, `end`, `shift` of `Past`."""
    plan, (seen, *others) = piece.query.plan, piece.past
    count = -(-plan.tokens // tile)
    if plan.block is None:
        return [(row, seen, *others)] * count
    return [(row, plan.query.start + number * tile, *others) for number in range(1, count + 1)]


class Bucket(NamedTuple):
    """The sizes of a forward.

    Attributes:
        tile: tokens of a tile, or WHOLE.
        tokens: N, a multiple of it.
        reads: R.
    """

    tile: int
    tokens: int
    reads: int

    @property
    def sizes(self) -> Numbers[int]:
        """How long each list is."""
        stretches = self.tokens // 16 + 4
        starts, tiles = (self.tokens // 32 + 3, 0) if self.tile == WHOLE else (0, self.tokens // self.tile)
        return Numbers(*[self.tokens, *[stretches] * 4, *[self.reads] * 2, starts, *[tiles] * 5])

    def holds(self, numbers: Numbers[list[int]]) -> bool:
        """Whether they fit beside a stretch, and a sequence, of what pads."""
        sizes = self.sizes
        room = sizes._replace(end=sizes.end - 1, starts=max(0, sizes.starts - 1))
        return all(len(some) <= size for some, size in zip(numbers, room, strict=True))

    def filled(self, numbers: Numbers[list[int]], padding: int) -> list[int]:
        """The whole buffer: behind each list what pads, which is of that row of the page table and sees one slot."""
        fill = Numbers(0, self.tokens, 0, 0, padding, 0, 0, self.tokens, padding, 1, 0, 0, 0)
        parts = zip(numbers, fill, self.sizes, strict=True)
        return chained((*some, *[one] * (size - len(some))) for some, one, size in parts)

    def parts(self, buffer: Tensor) -> Numbers[Tensor]:
        """Where each list lies in the buffer."""
        return Numbers(*torch.split(buffer, [*self.sizes]))

    def plan(self, buffer: Tensor, pages_SP: Tensor) -> tuple[Tensor, ForwardPlan]:
        """The forward's tokens, int64 [N], and its plan."""
        numbers = self.parts(buffer)
        stretches_4G = buffer[self.tokens : self.tokens + 4 * len(numbers.end)].view(4, -1)
        positions_N, slots_N = laid_out(stretches_4G, pages_SP, self.tokens, self.tokens)
        group = Group(1, self.tokens, None)
        if self.tile != WHOLE:
            past = Past(
                pages_BP=pages_SP.index_select(0, numbers.of),
                seen_B=numbers.seen,
                begin_B=numbers.begin,
                end_B=numbers.stop,
                shift_B=numbers.shift,
                shortest=0,
                longest=pages_SP.shape[1] * PAGE,
                length=self.tile,
            )
            group = Group(len(numbers.of), self.tile, past)
        plan = ForwardPlan(
            positions_N=positions_N,
            read_R=numbers.read,
            before_R=numbers.before,
            groups=(group,),
            slots_M=slots_N,
            starts=(numbers.starts.int(),) if self.tile == WHOLE else (),
        )
        return numbers.tokens, plan


def buckets(tile: int) -> Iterator[Bucket]:
    """All of a tile, the smallest first; of each size those that predict few tokens, then all.

    >>> [(bucket.tokens, bucket.reads) for bucket in buckets(WHOLE)][2:6]
    [(192, 192), (256, 256), (320, 256), (320, 320)]
    """
    for size in SIZES:
        tokens = size - size % max(1, tile)
        if tokens:
            few = max(FEW, tokens // 4)
            yield from (Bucket(tile, tokens, reads) for reads in dict.fromkeys((min(few, tokens), tokens)))
