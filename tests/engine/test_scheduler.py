"""The scheduler's two functions on any numbers: budgets hold, order holds, and everybody's turn comes."""

from hypothesis import given
from hypothesis import strategies as st

from unmask.engine.scheduler import admit, pick

COSTS = st.lists(st.integers(0, 30), max_size=30)


@given(COSTS, st.integers(0, 100), st.integers(-3, 40))
def test_those_who_join_fit_and_the_next_one_would_not(pages: list[int], free: int, rows: int) -> None:
    joined = admit(pages, free=free, rows=rows)
    assert 0 <= joined <= len(pages)
    assert sum(pages[:joined]) <= free
    assert joined <= max(0, rows)
    if joined < min(len(pages), max(0, rows)):
        assert sum(pages[: joined + 1]) > free


@given(COSTS, st.integers(0, 200))
def test_a_forward_keeps_its_budget_and_leaves_out_nobody_who_would_fit(tokens: list[int], budget: int) -> None:
    picked = pick(tokens, budget=budget)
    assert picked == sorted(set(picked))
    spent = 0
    for index, cost in enumerate(tokens):
        assert (index in picked) == (spent + cost <= budget)
        spent += cost * (index in picked)
    assert spent <= budget


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 6)), min_size=1, max_size=20), st.data())
def test_whoever_fits_alone_is_served_and_soon(requests: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """Requests of (pages, tokens a forward, forwards), arriving at any time, under limits that each meets alone."""
    memory = data.draw(st.integers(max(pages for pages, _, _ in requests), 40))
    budget = data.draw(st.integers(max(tokens for _, tokens, _ in requests), 40))
    rows = data.draw(st.integers(1, 5))
    arrivals = sorted(data.draw(st.lists(st.integers(0, 20), min_size=len(requests), max_size=len(requests))))
    waiting: list[int] = []
    running: list[int] = []  # longest waiting first
    left = [forwards for _, _, forwards in requests]
    idle = [0] * len(requests)
    joined: list[int] = []
    for time in range(10_000):
        waiting += [number for number, arrival in enumerate(arrivals) if arrival == time]
        free = memory - sum(requests[number][0] for number in running)
        count = admit([requests[number][0] for number in waiting], free=free, rows=rows - len(running))
        running, waiting, joined = running + waiting[:count], waiting[count:], joined + waiting[:count]
        picked = [running[index] for index in pick([requests[number][1] for number in running], budget=budget)]
        assert bool(picked) == bool(running)
        for number in running:
            idle[number] = 0 if number in picked else idle[number] + 1
            assert idle[number] < rows  # each step somebody ahead of it goes behind it
        for number in picked:
            left[number] -= 1
        running = [number for number in running if number not in picked] + [number for number in picked if left[number]]
        if not any(left):
            break
    assert not any(left)
    assert joined == list(range(len(requests)))  # first come, first in
