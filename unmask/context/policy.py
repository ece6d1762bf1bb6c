"""What a forward of one row sees and recomputes, as pure functions of where its block stands.

A context is a layout (which positions exist for this block: all of them, or the suffix pruned) times a refresh (which part
of the layout a block's first forward queries) times a cache (which part the block's other forwards query). None depends on
another, so any three go together.

    layout   [0 ..... prompt ..... start ..... end ..... total)      pruned: [0 ... end + window) and the last `tail`
    refresh  everything; or, where the prompt's keys and values are kept, all behind it
    none     everything, every time
    prefix   the block and the suffix
    dual     the block alone

Where the model's attention is block-causal nothing behind the block exists and the keys and values of a block depend on
nothing behind its end: what is kept is exact, and every forward queries the block alone (`block_causal`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from unmask.context.runs import spans
from unmask.decode.spec import Keeping


@dataclass(frozen=True, kw_only=True)
class Window:
    """Where a row's block stands, in token positions: the prompt is [0, prompt), the block [start, end), the row [0, total).

    `lookbehind` is how far before what it predicts a query must begin, 0 or 1: the model's own. `origin` is where the grid
    of blocks begins; None: behind the prompt. On another grid the first block holds the end of the prompt too. `count` is
    how many blocks [start, end) is, where several are decoded at once.

    >>> Window(prompt=5, start=13, end=17, total=21).number, Window(prompt=5, start=12, end=16, total=20, origin=0).number
    (2, 2)
    """

    prompt: int
    start: int
    end: int
    total: int
    lookbehind: int = 0
    origin: int | None = None
    count: int = 1

    @property
    def length(self) -> int:
        """Tokens of a block."""
        return (self.end - self.start) // self.count

    @property
    def number(self) -> int:
        """How many blocks of the answer lie before this one."""
        origin, length = self.prompt if self.origin is None else self.origin, self.length
        return (self.start - origin) // length - (self.prompt - origin) // length


def windows(
    prompt: int, answer: int, length: int, *, block: int | None = None, lookbehind: int = 0, count: int = 1
) -> tuple[Window, ...]:
    """The blocks of `length` tokens that an answer is decoded in, in order; the last one may reach behind the answer.

    They begin behind the prompt, or stand on the grid from position 0 where the model's attention has blocks of its own
    (`ModelSpec.block`). With `count`, at most the answer's number of blocks, a window is that many blocks and moves on by
    one; the last one stays until all of its blocks are finished.

    >>> [(window.start, window.end) for window in windows(5, 8, 4)]
    [(5, 9), (9, 13)]
    >>> [(window.start, window.end) for window in windows(5, 8, 4, block=4)]
    [(4, 8), (8, 12), (12, 16)]
    >>> [(window.start, window.end) for window in windows(5, 16, 4, count=3)]
    [(5, 17), (9, 21)]
    """
    origin = None if block is None else 0
    first = prompt if origin is None else prompt - prompt % length
    starts = range(first, prompt + answer, length)
    total = starts[-1] + length
    whole = partial(Window, prompt=prompt, total=total, lookbehind=lookbehind, origin=origin, count=count)
    return tuple(whole(start=start, end=start + count * length) for start in starts[: len(starts) - count + 1])


class RowPlan(NamedTuple):
    """One row of one forward.

    `positions` is the row's layout: the token positions that exist for this forward, in order; slot i of the row's
    key/value memory belongs to positions[i]. `query` is the slice of the layout handed to the model; the rest is
    remembered from earlier forwards. `block`: a query sees its own and earlier blocks of that many tokens, counted from
    position 0; None: all positions.
    """

    positions: list[int]
    query: slice
    block: int | None = None

    @property
    def queried(self) -> list[int]:
        """The positions handed to the model."""
        return self.positions[self.query]

    @property
    def spans(self) -> list[range]:
        """The same as runs without a gap.

        >>> RowPlan([0, 1, 2, 3, 8, 9], slice(2, 6)).spans
        [range(2, 4), range(8, 10)]
        """
        return spans(self.positions, self.query.start, self.query.stop)

    @property
    def tokens(self) -> int:
        """How many tokens are handed to the model."""
        return int(self.query.stop - self.query.start)

    @property
    def fresh(self) -> bool:
        """Whether the forward recomputes everything that it sees."""
        return self.query == slice(0, len(self.positions))


class ContextPolicy(Protocol):
    """`plan(window, age)`: age counts the forwards of the block, 0 is its first, and all later ones are alike. Pure."""

    def __call__(self, window: Window, age: int) -> RowPlan: ...


class Cache(Protocol):
    """What the forwards behind a block's first query, of a layout of that many positions."""

    def __call__(self, window: Window, layout: int) -> slice: ...


def none(window: Window, layout: int) -> slice:
    """No cache: every forward recomputes everything."""
    return slice(0, layout)


def prefix(window: Window, layout: int) -> slice:
    """Fast-dLLM's prefix cache (arXiv 2505.22618, section 3.2): after the refresh, block and suffix are recomputed."""
    return slice(window.start - window.lookbehind, layout)


def dual(window: Window, layout: int) -> slice:
    """Fast-dLLM's dual cache: after the refresh, only the block is recomputed; prefix and suffix stay as they were."""
    return slice(window.start - window.lookbehind, window.end)


CACHES: Mapping[str, Cache] = {"none": none, "prefix": prefix, "dual": dual}


def refresh(window: Window, layout: int, prompt_interval: int | None) -> slice:
    """What a block's first forward queries: everything at every `prompt_interval`-th block, None only at the first of all.

    At the others everything behind the prompt, whose keys and values stay as the last whole refresh left them. The prompt
    is a prefix of every layout, so its slots never move. With a lookbehind its last position is queried too, because the
    first block's other forwards have rewritten it, and how often depends on the drafts.

    >>> [refresh(Window(prompt=5, start=start, end=start + 4, total=17), 17, 2) for start in (5, 9, 13)]
    [slice(0, 17, None), slice(5, 17, None), slice(0, 17, None)]
    """
    age = window.number if prompt_interval is None else window.number % prompt_interval
    return slice(0 if age == 0 else window.prompt - window.lookbehind, layout)


def whole(window: Window) -> list[int]:
    """Every position of the row."""
    return list(range(window.total))


def pruned(window: Window, *, near: int, tail: int, fixed: Sequence[int] = ()) -> list[int]:
    """Streaming-dLLM's layout (arXiv 2601.17917, eq. 7): prefix, block, the `near` next positions and the last `tail`.

    A suffix of at most `near` tokens stays whole, and so does fixed text, at the positions `fixed` in rising order.
    Positions keep their own numbers, so rotary distances are true.

    >>> pruned(Window(prompt=2, start=2, end=4, total=12), near=3, tail=1)
    [0, 1, 2, 3, 4, 5, 6, 11]
    """
    kept = window.end + near
    if kept >= window.total:
        return whole(window)
    end = max(kept, window.total - tail)
    return [*range(kept), *(place for place in fixed if kept <= place < end), *range(end, window.total)]


def policy(
    cache: str,
    suffix: tuple[int, int] | None,
    prompt_interval: int | None = 1,
    *,
    block: int | None = None,
    fixed: Sequence[int] = (),
) -> ContextPolicy:
    """The policy of a cache's name, of (near, tail) if the suffix is to be pruned, and of `refresh`.

    With `block`, the length of the blocks of a block-causal model, nothing is pruned or refreshed. `fixed` are the positions
    of fixed text, which is never pruned.
    """
    if block is not None:
        return block_causal(block, kept=cache != "none")
    query: Cache = CACHES[cache]
    layout: Callable[[Window], list[int]] = whole
    if suffix is not None:
        near, tail = suffix

        def layout(window: Window) -> list[int]:
            return pruned(window, near=near, tail=tail, fixed=fixed)

    def plan(window: Window, age: int) -> RowPlan:
        positions = layout(window)
        total = len(positions)
        return RowPlan(positions, refresh(window, total, prompt_interval) if age == 0 else query(window, total))

    return plan


def block_causal(block: int, *, kept: bool = True) -> ContextPolicy:
    """The policy of a model whose queries see their own and earlier blocks of `block` tokens alone.

    Every forward queries the block, or where nothing is kept all up to its end.

    >>> block_causal(4)(Window(prompt=9, start=8, end=12, total=16, origin=0), 0).query
    slice(8, 12, None)
    """

    def plan(window: Window, age: int) -> RowPlan:
        return RowPlan(list(range(window.end)), slice(window.start if kept else 0, window.end), block)

    return plan


def clean(begin: int, end: int, block: int) -> RowPlan:
    """A query of the complete blocks from `begin` to `end`, which makes their keys and values final."""
    return RowPlan(list(range(end)), slice(begin, end), block)


def sub_block(plan: RowPlan, window: Window, tokens: Sequence[int], length: int, mask_id: int) -> RowPlan:
    """Fast-dLLM v2's cache within a block (arXiv 2509.26328): query the first sub-block that has a mask alone.

    Of the others the keys and values of the last whole query are seen. Where the sub-block begins with a mask the whole block
    is queried, because what is before it may have changed since. `tokens` are the block's.

    >>> plan, window = RowPlan(list(range(8)), slice(0, 8), 8), Window(prompt=1, start=0, end=8, total=8, origin=0)
    >>> [sub_block(plan, window, tokens, 4, 9).query.start for tokens in ([1, 9, 9, 9, 9, 9, 9, 9], [1, 2, 3, 4, 5, 9, 9, 9])]
    [0, 4]
    """
    first = tokens.index(mask_id) if mask_id in tokens else 0
    begin = first - first % length
    if tokens[begin] == mask_id:
        return plan
    return plan._replace(query=slice(window.start + begin, window.start + begin + length))


class Turn(NamedTuple):
    """What a row does in one forward: make the keys and values of finished blocks final, decode its block, or both.

    With `block` of no query the block's first token alone is decoded, from the last row of `clean`.
    """

    clean: RowPlan | None
    block: RowPlan | None

    @property
    def tokens(self) -> int:
        """How many tokens are handed to the model; drafts would be more."""
        return sum(plan.tokens for plan in self if plan is not None)


def keeping(begin: int, end: int, *, block: int, how: Keeping, room: int | None, count: int = 1) -> RowPlan | None:
    """The query that makes final what lies between `begin` and `end`, or as much as one forward does; None: nothing does.

    Args:
        begin: up to where keys and values are final.
        block: tokens per block of the model.
        how: along with the first forward of the block at `end`, or not (`Keeping`).
        room: tokens of a forward, at least two blocks, or with `count` that many and one; None: any number.
        count: blocks that are decoded at once.

    >>> [keeping(begin, 40, block=4, how="along", room=19).query for begin in (0, 16, 32)]
    [slice(0, 16, None), slice(16, 32, None), slice(32, 40, None)]
    """
    lacking = end - begin
    if lacking == 0:
        return None
    most = lacking
    if how == "one by one":
        most = block
    elif room is not None and how == "own":
        most = room // block * block
    elif room is not None and lacking + count * block > room:
        most = min(lacking - block, room // block * block)  # one block at least goes along with the last
    return clean(begin, begin + min(lacking, most), block)


def most_slots(cache: str, total: int, width: int, branches: int) -> int:
    """Slots of key/value memory that a row of `total` positions can need, its drafts' copies of the query included.

    `width` are the tokens of a window.

    >>> most_slots("none", 100, 32, 4), most_slots("dual", 100, 32, 1), most_slots("dual", 100, 32, 4)
    (0, 100, 199)
    """
    return 0 if cache == "none" else total + (branches - 1) * _most_queried(cache, total, width)


def most_tokens(cache: str, total: int, width: int, branches: int) -> int:
    """Query tokens that a forward of a row of `total` positions can need: a refresh, or that many states of its query.

    >>> most_tokens("dual", 100, 32, 1), most_tokens("dual", 100, 32, 4)
    (100, 132)
    """
    return max(total, branches * _most_queried(cache, total, width))


def least_tokens(cache: str, total: int, block_length: int, branches: int, count: int = 1) -> int:
    """Query tokens that a forward must hold for a row to get on; less than `most_tokens` where a prompt may come in parts.

    >>> least_tokens("dual", 100, 32, 1), least_tokens("block", 100, 32, 1), least_tokens("block", 100, 32, 4)
    (100, 64, 128)
    """
    most = most_tokens(cache, total, count * block_length, branches)
    return min(most, block_length * max(1 + count, count * branches)) if cache == "block" else most


def _most_queried(cache: str, total: int, width: int) -> int:
    return {"dual": width + 1, "block": width}.get(cache, total)
