"""What each context queries and keeps, in numbers."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.context.plan import Query, assemble
from unmask.context.policy import CACHES, Window, policy, windows
from unmask.context.pool import PAGE, KVPool, pages_for

CPU = torch.device("cpu")


def queried(cache: str, age: int, suffix: tuple[int, int] | None = None, lookbehind: int = 0) -> list[int]:
    plan = policy(cache, suffix)(Window(prompt=4, start=4, end=8, total=20, lookbehind=lookbehind), age)
    return plan.positions[plan.query]


def test_each_cache_in_numbers() -> None:
    everything = list(range(20))
    for cache in CACHES:
        assert queried(cache, 0) == everything
    assert queried("none", 1) == everything
    assert queried("prefix", 1) == list(range(4, 20))
    assert queried("dual", 1) == [4, 5, 6, 7]
    assert queried("dual", 1, lookbehind=1) == [3, 4, 5, 6, 7]


def test_a_pruned_suffix_keeps_its_own_positions() -> None:
    assert queried("none", 0, (3, 1)) == [*range(8), 8, 9, 10, 19]
    assert queried("prefix", 1, (3, 2)) == [4, 5, 6, 7, 8, 9, 10, 18, 19]
    assert queried("dual", 1, (3, 1)) == [4, 5, 6, 7]
    assert queried("none", 0, (0, 0)) == list(range(8))
    assert queried("none", 0, (12, 1)) == list(range(20))


@given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(0, 30),
    st.integers(0, 40),
    st.integers(0, 4),
    st.sampled_from(list(CACHES)),
)
def test_a_layout_always_holds_prefix_and_block_once(
    start: int, length: int, rest: int, near: int, tail: int, cache: str
) -> None:
    window = Window(prompt=start, start=start, end=start + length, total=start + length + rest)
    for suffix in (None, (near, tail)):
        for age in (0, 1):
            plan = policy(cache, suffix)(window, age)
            assert plan.positions == sorted(set(plan.positions))
            assert plan.positions[: window.end] == list(range(window.end))
            assert set(range(window.start, window.end)) <= set(plan.positions[plan.query])


@given(prompt=st.integers(1, 40), blocks=st.integers(1, 6), length=st.integers(1, 9), grid=st.booleans())
def test_blocks_cover_the_answer_in_order_on_either_grid(prompt: int, blocks: int, length: int, grid: bool) -> None:
    found = windows(prompt, blocks * length, length, block=length if grid else None, lookbehind=1)
    assert [window.number for window in found] == list(range(len(found)))
    assert [window.start for window in found[1:]] == [window.end for window in found[:-1]]
    assert all(window.end - window.start == length for window in found)
    assert {window.total for window in found} == {found[-1].end}
    assert found[0].start <= prompt < found[0].end
    assert 0 <= found[-1].end - (prompt + blocks * length) < length
    assert found[0].start % length == 0 if grid else found[0].start == prompt
    # The same grid by another name: where the prompt fills whole blocks nothing changes.
    if prompt % length == 0:
        bare = [(window.start, window.end, window.total) for window in windows(prompt, blocks * length, length)]
        assert [(window.start, window.end, window.total) for window in found] == bare


def row(start: int, total: int, age: int, *, cache: str = "dual", states: int = 1, pages: tuple[int, ...] = ()) -> Query:
    """A row whose block of two begins at `start`; its tokens are its positions plus 100."""
    plan = policy(cache, None)(Window(prompt=start, start=start, end=start + 2, total=total), age)
    tokens = [100 + place for place in plan.positions[plan.query]]
    return Query(plan=plan, tokens=tokens, start=start, length=2, states=states, pages=pages, copies=total)


def test_states_see_the_row_and_their_own_copy_only() -> None:
    """Two rows on pages of their own, a block of two, three states: who writes and sees which slots, spelled out."""
    tokens, plan = assemble([row(1, 5, 1, states=3, pages=(1,)), row(2, 6, 1, states=3, pages=(0,))], device=CPU)
    assert tokens.tolist() == [101, 102] * 3 + [102, 103] * 3
    first, second = PAGE, 0
    assert plan.slots_M.tolist() == [
        *(first + slot for slot in (1, 2, 5, 6, 7, 8)),
        *(second + slot for slot in (2, 3, 6, 7, 8, 9)),
    ]
    (group,) = plan.groups
    assert (group.queries, group.length) == (6, 2)
    assert group.past is not None
    assert group.past.visible is not None
    seen = [keys[shown[0]].tolist() for keys, shown in zip(group.past.keys, group.past.visible, strict=True)]
    assert seen[:3] == [[first + slot for slot in slots] for slots in ((0, 1, 2, 3, 4), (0, 5, 6, 3, 4), (0, 7, 8, 3, 4))]
    assert seen[3:] == [
        [second + slot for slot in slots] for slots in ((0, 1, 2, 3, 4, 5), (0, 1, 6, 7, 4, 5), (0, 1, 8, 9, 4, 5))
    ]


def test_any_phases_and_lengths_are_packed_without_padding() -> None:
    """A refresh, a block forward and a row without a cache: the remembered first, everyone read in the rows' order."""
    rows = [row(4, 8, 1, cache="none"), row(30, 32, 1, pages=(4, 2)), row(2, 6, 0, pages=(3,)), row(5, 7, 1, pages=(5,))]
    tokens, plan = assemble(rows, device=CPU)
    assert len(tokens) == sum(query.plan.tokens for query in rows) == 8 + 2 + 6 + 2
    assert len(plan.slots_M) == 2 + 6 + 2
    places = [start + offset for start in (4, 30, 2, 5) for offset in (0, 1)]
    assert plan.positions_N[plan.read_R].tolist() == places
    assert tokens[plan.read_R].tolist() == [100 + place for place in places]
    assert plan.slots_M[(plan.positions_N[: len(plan.slots_M)] >= 30)].tolist() == [2 * PAGE + 14, 2 * PAGE + 15]
    assert [(group.queries, group.length, group.past is None) for group in plan.groups] == [
        (1, 6, True),
        (1, 2, False),  # 7 slots are seen
        (1, 2, False),  # 32: no row pays for another's much longer prompt
        (1, 8, True),
    ]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=40))
def test_a_pool_lends_every_page_once_and_gets_it_back(wishes: list[tuple[bool, int]]) -> None:
    pool = KVPool(layers=1, pages=8, kv_heads=1, head_size=2, dtype=torch.float32, device=CPU)
    held: list[tuple[int, ...]] = []
    for returns, slots in wishes:
        if returns and held:
            pool.give(held.pop(0))
        elif pages_for(slots) <= pool.free:
            held.append(pool.take(pages_for(slots)))
        out = [page for pages in held for page in pages]
        assert len(out) == len(set(out)) == 8 - pool.free
