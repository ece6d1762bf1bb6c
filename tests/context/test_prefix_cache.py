"""The index of prefixes lends each page as it should, whatever comes and goes: what is found is what was asked for."""

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from unmask.context.pool import PAGE, KVPool, pages_for
from unmask.context.prefix_cache import Chain, Lease, PrefixCache

PAGES = 14


def pool(pages: int = PAGES) -> KVPool:
    return KVPool(layers=0, pages=pages, kv_heads=1, head_size=2, dtype=torch.float32, device=torch.device("cpu"))


def lent(
    cache: PrefixCache,
    tokens: list[int],
    *,
    block: int | None = 16,
    more: int = 0,
    reusable: int | None = None,
    scope: str = "",
) -> Lease:
    """A row of these tokens with space for `more`, that has its pages."""
    reusable = len(tokens) if reusable is None else reusable
    lease = cache.lease(pages_for(len(tokens) + more), tokens, block=block, reusable=reusable, scope=scope)
    assert not cache.waits(lease)
    cache.lend(lease)
    return lease


class Row:
    """What a row of the test knows of itself."""

    def __init__(self, tokens: list[int], prompt: int, scope: object, lease: Lease) -> None:
        self.tokens, self.prompt, self.scope, self.lease = tokens, prompt, scope, lease
        self.final = 0

    def content(self, number: int) -> tuple[object, tuple[int, ...]]:
        """What keys and values of its page of this number depend on, for the pages of complete units."""
        return self.scope, tuple(self.tokens[: (number + 1) * PAGE])


class Lending(RuleBasedStateMachine):
    """Rows of few different tokens arrive, join, compute, publish and leave in any order."""

    @initialize(blocks=st.lists(st.sampled_from([4, 16, 24, 32, None]), min_size=1, max_size=2))
    def start(self, blocks: list[int | None]) -> None:
        self.pool = pool()
        self.cache = PrefixCache(self.pool)
        self.blocks = blocks
        self.waiting: list[Row] = []
        self.running: list[Row] = []
        self.contents: dict[int, tuple[object, tuple[int, ...]]] = {}  # page -> what was last written there

    @rule(
        units=st.lists(st.integers(0, 1), min_size=1, max_size=4),
        prompt=st.integers(1, 4 * 48),
        reusable=st.integers(0, 4 * 48),
        scope=st.sampled_from(["", "key"]),
        data=st.data(),
    )
    def arrive(self, units: list[int], prompt: int, reusable: int, scope: str, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.blocks))
        tokens = [token for token in units for _ in range(Chain(block or PAGE).unit)]
        prompt = min(prompt, len(tokens))
        count = pages_for(len(tokens))
        if count <= PAGES:
            reusable = min(prompt, reusable)
            lease = self.cache.lease(count, tokens[:prompt], block=block, reusable=reusable, scope=scope)
            self.waiting.append(Row(tokens, prompt, (block, scope), lease))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self.waiting))
        needed, free = self.cache.needs(row.lease), self.cache.free
        if self.cache.waits(row.lease):
            assert any(other.final < other.prompt and other.scope == row.scope for other in self.running)
            return
        if needed > free:
            return
        held = {page for other in self.running for page in other.lease.pages}
        self.cache.lend(row.lease)
        assert self.cache.free == free - needed
        lease, found = row.lease, row.lease.cached // PAGE
        assert len(lease.pages) == len(set(lease.pages)) == lease.count
        assert lease.cached <= row.prompt
        for number, page in enumerate(lease.pages[:found]):
            assert self.contents[page] == row.content(number)
        assert not held & set(lease.pages[found:])
        for page in lease.pages[found:]:
            self.contents.pop(page, None)
        row.final = lease.cached
        self.waiting.remove(row)
        self.running.append(row)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), tokens=st.integers(1, 80))
    def compute(self, data: st.DataObject, tokens: int) -> None:
        row = data.draw(st.sampled_from(self.running))
        before, row.final = row.final, min(len(row.tokens), row.final + tokens)
        for number in range(before // PAGE, pages_for(row.final)):
            assert number * PAGE >= row.lease.cached
            self.contents[row.lease.pages[number]] = row.content(number)
        self.cache.publish(row.lease, row.tokens, row.final)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self.running))
        self.running.remove(row)
        self.cache.give(row.lease)

    @invariant()
    def every_page_is_where_it_belongs(self) -> None:
        if not hasattr(self, "pool"):
            return
        held = {page for row in self.running for page in row.lease.pages}
        assert self.cache.free == PAGES - len(held)
        assert self.cache.kept + self.pool.free == self.cache.free
        assert all(self.pool.holders(page) > 0 for page in held)
        assert sum(self.pool.holders(page) == 0 for page in range(PAGES)) == self.pool.free

    @invariant()
    def what_is_final_stays(self) -> None:
        for row in getattr(self, "running", ()):
            for number in range(row.final // PAGE):
                assert self.contents[row.lease.pages[number]] == row.content(number)

    def teardown(self) -> None:
        for row in getattr(self, "running", ()):
            self.cache.give(row.lease)
        if hasattr(self, "pool"):
            assert self.cache.free == PAGES


class TestLending(Lending.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(("block", "unit"), [(4, 16), (8, 16), (16, 16), (24, 48), (32, 32), (64, 64)])
def test_a_unit_ends_a_page_and_a_block(block: int, unit: int) -> None:
    assert Chain(block).unit == unit


def test_what_keys_and_values_depend_on_tells_keys_apart() -> None:
    def keys(block: int, tokens: list[int], scope: str = "") -> list[bytes]:
        chain = Chain(block, scope=scope)
        chain.extend(tokens, len(tokens))
        return chain.keys

    tokens = list(range(32))
    assert keys(4, tokens) == keys(4, tokens)
    others = [keys(8, tokens), keys(4, tokens, "key"), keys(4, [*tokens[:31], 7]), keys(4, [7, *tokens[1:]])]
    assert len({keys(4, tokens)[-1], *(other[-1] for other in others)}) == 5
    assert keys(4, [*tokens[:31], 7])[0] == keys(4, tokens)[0]


def test_the_second_row_finds_what_the_first_published_and_no_more() -> None:
    cache = PrefixCache(pool())
    first = lent(cache, [1] * 40)
    assert first.cached == 0
    cache.publish(first, [1] * 40, 40)  # two pages; the third is not complete
    second = lent(cache, [1] * 32 + [2] * 16)
    assert second.cached == 32
    assert second.pages[:2] == first.pages[:2]
    assert second.pages[2] not in first.pages
    # What a row must query itself it does not take over.
    assert lent(cache, [1] * 32, reusable=24).cached == 16
    # Another scope shares nothing, though its tokens are the same.
    assert lent(cache, [1] * 32, scope="another").cached == 0


def test_a_row_waits_for_what_another_is_computing_until_that_one_leaves() -> None:
    cache = PrefixCache(pool())
    first = lent(cache, [1] * 48)
    second = cache.lease(4, [1] * 32 + [2] * 32, block=16, reusable=64)
    assert cache.waits(second)
    cache.publish(first, [1] * 16, 16)
    assert cache.waits(second)  # for the second page
    cache.publish(first, [1] * 32, 32)
    assert not cache.waits(second)  # the third is another's
    third = cache.lease(3, [1] * 48, block=16, reusable=48)
    assert cache.waits(third)
    cache.give(first)
    assert not cache.waits(third)
    cache.lend(third)
    assert third.cached == 32


def test_the_least_recently_used_leaves_first_and_of_a_row_its_end() -> None:
    cache = PrefixCache(pool(4))
    for token in (1, 2):
        row = lent(cache, [token] * 32)
        cache.publish(row, [token] * 32, 32)
        cache.give(row)
    assert cache.free == 4
    assert cache.kept == 4
    used = lent(cache, [1] * 32)  # used again: now the other is the older
    cache.give(used)
    lent(cache, [3] * 16)
    assert lent(cache, [1] * 32).cached == 32
    assert lent(cache, [2] * 16).cached == 16  # its second page is gone


@pytest.mark.parametrize(("shared", "block"), [(True, None), (False, 16)])
def test_a_row_of_full_attention_shares_nothing_and_no_row_where_it_is_off(shared: bool, block: int | None) -> None:
    cache = PrefixCache(pool(), shared=shared)
    first = lent(cache, [1] * 64, block=block)
    cache.publish(first, [1] * 64, 64)
    assert lent(cache, [1] * 64, block=block).cached == 0
    cache.give(first)
    assert cache.kept == 0


def test_two_equal_answers_are_kept_once() -> None:
    """Rows that compute the same at the same time: the first is found by others, the second's copy is its own."""
    cache = PrefixCache(pool())
    rows = [lent(cache, [1] * 8, more=24) for _ in range(2)]
    for row in rows:
        cache.publish(row, [1] * 32, 32)
    third = lent(cache, [1] * 32)
    assert third.pages == rows[0].pages
    cache.give(rows[1])
    assert cache.kept == 0
    assert cache.free == PAGES - 2
