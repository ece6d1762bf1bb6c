"""What each context queries and keeps, in numbers."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.context.plan import assemble
from unmask.context.policy import CACHES, Window, policy


def queried(cache: str, age: int, suffix: tuple[int, int] | None = None, lookbehind: int = 0) -> list[int]:
    plan = policy(cache, suffix)(Window(start=4, end=8, total=20, lookbehind=lookbehind), age)
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
    window = Window(start=start, end=start + length, total=start + length + rest)
    for suffix in (None, (near, tail)):
        for age in (0, 1):
            plan = policy(cache, suffix)(window, age)
            assert plan.positions == sorted(set(plan.positions))
            assert plan.positions[: window.end] == list(range(window.end))
            assert set(range(window.start, window.end)) <= set(plan.positions[plan.query])


def test_branches_see_the_row_and_their_own_copy_only() -> None:
    """Two rows, a block of two, three branches: who sees what, spelled out."""
    rows = [policy("dual", None)(Window(start=start, end=start + 2, total=start + 4), 1) for start in (1, 2)]
    plan = assemble(rows, [1, 2], 2, branches=3, slots=6, device=torch.device("cpu"))
    assert plan.slots_BQ is not None
    assert plan.visible is not None
    assert plan.slots_BQ.tolist() == [[1, 2, 6, 7, 8, 9], [2, 3, 6, 7, 8, 9]]
    seen = [sorted({tuple(query.nonzero()[:, 0].tolist()) for query in row}) for row in plan.visible]
    assert seen[0] == [(0, 1, 2, 3, 4), (0, 3, 4, 6, 7), (0, 3, 4, 8, 9)]
    assert seen[1] == [(0, 1, 2, 3, 4, 5), (0, 1, 4, 5, 6, 7), (0, 1, 4, 5, 8, 9)]
