"""Which pages of the pool hold what a new row begins with: block-causal prefixes, found again by what their tokens are.

Where attention is block-causal, the keys and values of a block are a function of the tokens up to its end and of nothing
else, so rows that begin alike share them for as long as they are alike. They share whole units: the fewest tokens that end a
block and a page alike, a page where the block length divides it.

    tokens   [ system prompt            ][ own ..... ]
    units    [ unit 0 ][ unit 1 ][ unit 2 ][ unit 3 ]...      a unit's key: a hash of all tokens up to its end
    row A      page 4    page 9    page 2    page 7           publishes each when its keys and values are final
    row B      page 4    page 9    page 5    page 1           found two, and computes what follows

The index is a holder of the pages that it can find, beside the rows. Units that no row holds leave when memory is needed,
the least recently used first, and of one row's units the last one, which is of no use without those before it. A row that
would compute what another row is computing now waits until it can find it.

It knows no model: an engine has one, so weights and precision are the same for all that is in its pool.
"""

import array
import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from unmask.context.pool import PAGE, KVPool


class Chain:
    """The keys of a row's units: each says which tokens stand up to the unit's end, in blocks of which length and scope.

    A cryptographic hash, because a collision would hand one row the keys and values of another's tokens.

    >>> one, other = Chain(4), Chain(4)
    >>> one.extend([5] * 40, 40)
    >>> other.extend([5] * 20 + [6] * 20, 20)
    >>> other.extend([5] * 20 + [6] * 20, 40)
    >>> [key == mine for key, mine in zip(one.keys, other.keys)]
    [True, False]
    """

    def __init__(self, block: int, *, scope: str = "") -> None:
        """`block` in tokens. Rows of different blocks or scopes have no key in common."""
        self.unit = math.lcm(block, PAGE)
        self.keys: list[bytes] = []
        self._hash = hashlib.blake2b(repr((block, scope)).encode(), digest_size=32)

    def extend(self, tokens: Sequence[int], end: int) -> None:
        """Go on to the last complete unit of the row's first `end` tokens, which begin as they did at the last call."""
        for begin in range(len(self.keys) * self.unit, end - self.unit + 1, self.unit):
            self._hash.update(array.array("q", tokens[begin : begin + self.unit]).tobytes())
            self.keys.append(self._hash.digest())


@dataclass(kw_only=True, eq=False)
class Lease:
    """What one row holds of the pool, or would like to: `PrefixCache.lease` makes one.

    Attributes:
        count: pages that the row needs, shared ones included.
        chain: the keys of its units as far as its tokens are known; None where it shares nothing.
        wanted: how many units of its prompt it would rather find than compute.
        pages: lent to it, in the order of its slots; the first of them may be shared.
        cached: tokens at its beginning whose keys and values it has found.
        published: how many of its units are in the index, or were found there.
        claimed: keys of units that it is about to publish, for others to wait for.
    """

    count: int = 0
    chain: Chain | None = None
    wanted: int = 0
    pages: tuple[int, ...] = ()
    cached: int = 0
    published: int = 0
    claimed: set[bytes] = field(default_factory=set)

    @property
    def keys(self) -> list[bytes]:
        """The keys that it would like to find, in order."""
        return [] if self.chain is None else self.chain.keys[: self.wanted]

    def lacks(self, end: int) -> bool:
        """Whether a complete unit of the row's first `end` tokens is not published."""
        return self.chain is not None and end // self.chain.unit > self.published


class PrefixCache:
    """Lends the pages of a pool; those that rows have in common, once."""

    def __init__(self, pool: KVPool, *, shared: bool = True) -> None:
        """`shared`: whether any have."""
        self._pool, self._shared = pool, shared
        self._units: dict[bytes, tuple[int, ...]] = {}  # key -> its pages
        self._idle: OrderedDict[bytes, None] = OrderedDict()  # held by no row, least recently used first
        self._claimed: set[bytes] = set()
        self.kept = 0  # pages that are held so that they can be found again, and by no row

    @property
    def free(self) -> int:
        """Pages that no row holds: free ones, and those of units that can leave."""
        return self._pool.free + self.kept

    def lease(
        self, pages: int, prompt: Sequence[int] = (), *, block: int | None = None, reusable: int = 0, scope: str = ""
    ) -> Lease:
        """What a row of this prompt and that many pages would like; nothing is lent yet.

        Args:
            block: tokens per block of its attention; None: it shares nothing, nor does a row that needs no pages.
            reusable: it need not query that many tokens at its beginning if their keys and values are there.
            scope: it shares with rows of the same one alone.
        """
        if block is None or pages == 0 or not self._shared:
            return Lease(count=pages)
        chain = Chain(block, scope=scope)
        chain.extend(prompt, len(prompt))
        return Lease(count=pages, chain=chain, wanted=reusable // chain.unit)

    def waits(self, lease: Lease) -> bool:
        """Whether another row is computing what this one would compute next, and so publishes it soon, or leaves."""
        if not self._claimed:
            return False
        keys = lease.keys
        found = len(self._found(keys))
        return found < len(keys) and keys[found] in self._claimed

    def needs(self, lease: Lease) -> int:
        """How many pages fewer are `free` when it is lent."""
        return lease.count - sum(len(self._units[key]) for key in self._found(lease.keys) if key not in self._idle)

    def lend(self, lease: Lease) -> None:
        """Give it its pages: what it wants and is found, and others for the rest; the caller knows that they are there."""
        found = self._found(lease.keys)
        for key in found:
            self._hold(key)
        shared = tuple(page for key in found for page in self._units[key])
        own = lease.count - len(shared)
        while self._pool.free < own:
            self._evict()
        lease.pages = shared + self._pool.take(own)
        lease.published, lease.cached = len(found), len(shared) * PAGE
        if lease.chain is not None:
            lease.claimed = set(lease.chain.keys[len(found) :]) - self._claimed
            self._claimed |= lease.claimed

    def publish(self, lease: Lease, tokens: Sequence[int], end: int) -> None:
        """Let others find the complete units of the row's first `end` tokens: their keys and values are final."""
        if lease.chain is None:
            return
        lease.chain.extend(tokens, end)
        size = lease.chain.unit // PAGE
        for number in range(lease.published, end // lease.chain.unit):
            key = lease.chain.keys[number]
            if key not in self._units:  # else another row came first, and this one's copy is its own
                pages = self._units[key] = lease.pages[number * size : (number + 1) * size]
                self._pool.hold(pages)
            if key in lease.claimed:
                lease.claimed.remove(key)
                self._claimed.remove(key)
            lease.published = number + 1

    def give(self, lease: Lease) -> None:
        """Take all of it back. What it has published can be found until its memory is needed."""
        pages = lease.pages
        self._pool.give(pages)
        self._claimed -= lease.claimed
        for number in reversed(range(lease.published)):
            assert lease.chain is not None, "what shares nothing publishes nothing"
            size, key = lease.chain.unit // PAGE, lease.chain.keys[number]
            if self._pool.holders(pages[number * size]) == 1:  # the index
                self._idle[key] = None
                self.kept += size
        lease.pages, lease.published, lease.claimed = (), 0, set()

    def _found(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Those of the first keys that are there, up to the first that is not."""
        for number, key in enumerate(keys):
            if key not in self._units:
                return keys[:number]
        return keys

    def _hold(self, key: bytes) -> None:
        """A row holds this unit, beside the index."""
        pages = self._units[key]
        self._pool.hold(pages)
        if key in self._idle:
            del self._idle[key]
            self.kept -= len(pages)

    def _evict(self) -> None:
        """Let the least recently used unit go."""
        key, _ = self._idle.popitem(last=False)
        pages = self._units.pop(key)
        self._pool.give(pages)
        self.kept -= len(pages)
