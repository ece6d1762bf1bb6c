"""Which rows' forwards may share a graph: block forwards of one form, and packed ones of one tile. No tensors are here."""

import functools
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from unmask.context.buckets import TILE, WHOLE
from unmask.engine.state import RequestState
from unmask.methods.recipe import Structure


def graphable(row: RequestState) -> bool:
    """Whether a row's next forward is a block forward: the block alone is queried, all else is remembered.

    Of a block-causal model also one that makes the block before final. A constraint computes what it likes, which no graph
    can hold, and a sub-block that is queried alone is not the whole block.
    """
    recipe = row.recipe
    if recipe.cache not in ("dual", "block") or recipe.sub_block is not None or row.constraint is not None:
        return False
    if recipe.cache == "dual":
        return not row.refreshes
    clean, block = row.turn()
    return block is not None and block.tokens == recipe.width and (clean is None or clean.tokens == recipe.length)


def tile_of(row: RequestState, *, together: bool) -> int | None:
    """The tile (context/buckets.py) in which a packed forward of this row is replayed; None: in none.

    Where no call takes whole sequences of any lengths `together`, those are launched kernel by kernel; and so are forwards of
    a block-causal model that keeps nothing, whose masks depend on lengths, and those of a part of a block.
    """
    grid, turn, cache = row.recipe.block, row.turn(), row.recipe.cache
    if grid is not None:
        return None if cache == "none" or turn.tokens % grid else grid
    if turn.block is not None and turn.block.fresh:
        return WHOLE if together else None
    return TILE


def tiles_of(row: RequestState, *, together: bool) -> list[int]:
    """All tiles in which forwards of a row of no constraint are replayed, whose block is not graphable."""
    recipe = row.recipe
    if recipe.block is not None:
        return [] if recipe.cache == "none" else [recipe.block]
    remembers = recipe.cache == "prefix" or (recipe.cache == "dual" and recipe.prompt_interval != 1)
    return [WHOLE] * together + [TILE] * remembers


def padded(queries: int) -> int:
    """Queries of the smallest forward that holds these: 1, 4, a power of two from there on, or one and a half times one.

    Few sizes, because the graphs of growing forwards share memory badly: a larger tensor fits into no smaller one's place.

    >>> [padded(queries) for queries in (1, 2, 5, 9, 13, 33, 49)]
    [1, 4, 8, 12, 16, 48, 64]
    """
    power: int = max(4, 1 << (queries - 1).bit_length()) if queries > 1 else 1
    between = 3 * power // 4
    return between if power > 8 and queries <= between else power


class Form(NamedTuple):
    """What the queries of one forward have in common: their shape, and what is made of their logits.

    Attributes:
        length: tokens per block; a window is `blocks` of them, and a query begins `before` tokens before it.
        grid: as `Structure.block`.
        reads: all that decides what is read of the logits, but what rows rank by.
        sampled: whether any of them is sampled; the others take the most probable token all the same.
    """

    length: int
    blocks: int
    before: int
    grid: int | None
    reads: Hashable
    sampled: bool = False

    @property
    def width(self) -> int:
        """L."""
        return self.length * self.blocks


@functools.lru_cache(maxsize=256)
def form_of(structure: Structure) -> Form:
    """What a structure must share with others to share a forward with them."""
    logits = structure.precision, structure.never, structure.hole_ends
    beside = structure.reads_hidden, structure.moves, structure.alternatives
    return Form(structure.length, structure.blocks.count, structure.lookbehind, structure.block, (*logits, *beside))


def forms(rows: Sequence[RequestState]) -> list[tuple[Form, list[RequestState]]]:
    """Which of these rows can share a forward, and its form; in the order of their places, whoever is first in line."""
    found: dict[Form, list[RequestState]] = {}
    for row in sorted(rows, key=lambda row: row.index):
        found.setdefault(form_of(row.structure), []).append(row)
    return [
        (form._replace(sampled=any(row.structure.sampled is not None for row in some)), some) for form, some in found.items()
    ]
