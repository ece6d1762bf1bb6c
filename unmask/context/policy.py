"""What a forward of one row sees and recomputes, as pure functions of where its block stands.

A context is a layout (which positions exist for this block: all of them, or the suffix pruned) times a cache (which part
of the layout is queried anew). The two know nothing of each other, so every pair works.

    layout   [0 .............. start ........ end ........ total)      pruned: [0 ... end + window) and the last `tail`
    none     queries everything, every time
    prefix   at a block's first forward everything; then the block and the suffix
    dual     at a block's first forward everything; then the block alone
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, kw_only=True)
class Window:
    """Where a row's block stands, in token positions: the block is [start, end), the row ends at total.

    `first` is how far before the block a query must begin (the model's lookbehind, 0 or 1).
    """

    start: int
    end: int
    total: int
    lookbehind: int = 0


class RowPlan(NamedTuple):
    """One row of one forward.

    `positions` is the row's layout: the token positions that exist for this forward, in order; slot i of the row's
    key/value memory belongs to positions[i]. `query` is the slice of the layout handed to the model; the rest is
    remembered from the block's first forward.
    """

    positions: list[int]
    query: slice

    @property
    def tokens(self) -> int:
        """How many tokens are handed to the model."""
        return int(self.query.stop - self.query.start)

    @property
    def fresh(self) -> bool:
        """Whether the forward recomputes everything that it sees."""
        return self.query == slice(0, len(self.positions))


class ContextPolicy(Protocol):
    """`plan(window, age)`: age counts the forwards of the block, 0 is its first, and all behind it are alike. Pure."""

    def __call__(self, window: Window, age: int) -> RowPlan: ...


class Cache(Protocol):
    def __call__(self, window: Window, age: int, layout: int) -> slice: ...


def none(window: Window, age: int, layout: int) -> slice:
    """No cache: every forward recomputes everything."""
    return slice(0, layout)


def prefix(window: Window, age: int, layout: int) -> slice:
    """Fast-dLLM's prefix cache (arXiv 2505.22618, section 3.2): after the refresh, block and suffix are recomputed."""
    return slice(0 if age == 0 else window.start - window.lookbehind, layout)


def dual(window: Window, age: int, layout: int) -> slice:
    """Fast-dLLM's dual cache: after the refresh, only the block is recomputed; prefix and suffix stay as they were."""
    return none(window, age, layout) if age == 0 else slice(window.start - window.lookbehind, window.end)


CACHES: Mapping[str, Cache] = {"none": none, "prefix": prefix, "dual": dual}


def whole(window: Window) -> list[int]:
    """Every position of the row."""
    return list(range(window.total))


def pruned(window: Window, *, near: int, tail: int) -> list[int]:
    """Streaming-dLLM's layout (arXiv 2601.17917, eq. 7): prefix, block, the `near` next positions and the last `tail`.

    A suffix of at most `near` tokens stays whole. Positions keep their own numbers, so rotary distances are true.

    >>> pruned(Window(start=2, end=4, total=12), near=3, tail=1)
    [0, 1, 2, 3, 4, 5, 6, 11]
    """
    kept = window.end + near
    if kept >= window.total:
        return whole(window)
    return [*range(kept), *range(max(kept, window.total - tail), window.total)]


def policy(cache: str, suffix: tuple[int, int] | None) -> ContextPolicy:
    """The policy of a cache's name and, if the suffix is to be pruned, (near, tail)."""
    query: Cache = CACHES[cache]
    layout: Callable[[Window], list[int]] = whole
    if suffix is not None:
        near, tail = suffix

        def layout(window: Window) -> list[int]:
            return pruned(window, near=near, tail=tail)

    def plan(window: Window, age: int) -> RowPlan:
        positions = layout(window)
        return RowPlan(positions, query(window, age, len(positions)))

    return plan


def most_slots(cache: str, total: int, block_length: int, branches: int) -> int:
    """Slots of key/value memory that a row of `total` positions can need, its drafts' copies of the query included.

    >>> most_slots("none", 100, 32, 4), most_slots("dual", 100, 32, 1), most_slots("dual", 100, 32, 4)
    (0, 100, 199)
    """
    return 0 if cache == "none" else total + (branches - 1) * _most_queried(cache, total, block_length)


def most_tokens(cache: str, total: int, block_length: int, branches: int) -> int:
    """Query tokens that a forward of a row of `total` positions can need: a refresh, or that many states of its query.

    >>> most_tokens("dual", 100, 32, 1), most_tokens("dual", 100, 32, 4)
    (100, 132)
    """
    return max(total, branches * _most_queried(cache, total, block_length))


def _most_queried(cache: str, total: int, block_length: int) -> int:
    return block_length + 1 if cache == "dual" else total
