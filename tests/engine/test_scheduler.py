"""Shares of memory and forwards, for any requests: budgets hold, no owner gets ahead of another, and every turn comes."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.engine.request import UNNAMED, Owner
from unmask.engine.scheduler import Held, Row, Turns, admit

OWNERS = st.builds(Owner, st.sampled_from(["", "one", "two"]), st.sampled_from(["", "a", "b", "c"]))
ROWS = st.lists(st.builds(Row, OWNERS, st.integers(0, 30)), max_size=30)


@given(ROWS, ROWS, st.integers(0, 100), st.integers(-1, 40))
def test_what_joins_fits_and_holds_no_more_than_what_stays_free(
    waiting: list[Row], running: list[Row], pages: int, rows: int
) -> None:
    place = admit(waiting, Held(running), pages=pages, rows=rows)
    if place is None:
        return
    joined = waiting[place]
    assert rows >= 1
    assert joined.cost <= pages
    for depth in (1, 2):
        if joined.owner[depth - 1]:
            mine = [row for row in running if row.owner[:depth] == joined.owner[:depth]]
            assert not mine or (len(mine) < rows and sum(row.cost for row in mine) + joined.cost <= pages)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(0, 100))
def test_rows_of_no_name_join_in_their_order(costs: list[int], pages: int) -> None:
    waiting = [Row(UNNAMED, cost) for cost in costs]
    assert admit(waiting, Held(), pages=pages, rows=1) == (0 if costs[0] <= pages else None)


def test_a_request_of_many_rows_leaves_room_for_any_other() -> None:
    many, held = Owner("", "many"), Held()
    joined = 0
    while admit([Row(many, 32)] * 128, held, pages=2048 - 32 * joined, rows=64 - joined) is not None:
        held.add(Row(many, 32))
        joined += 1
    assert joined == 32
    waiting = [Row(many, 32)] * 96 + [Row(Owner("", "one"), 32)]
    assert admit(waiting, held, pages=1024, rows=32) == 96


def test_the_key_that_holds_least_is_next() -> None:
    waiting = [Row(Owner("one", "a"), 1), Row(Owner("one", "b"), 1), Row(Owner("two", "c"), 1)]
    assert admit(waiting, Held([Row(Owner("one", "z"), 1)]), pages=9, rows=9) == 2


@given(ROWS.filter(bool), st.integers(30, 200), st.integers(1, 100))
def test_a_forward_keeps_its_budget_and_each_request_its_share(line: list[Row], budget: int, share: int) -> None:
    picked = Turns(budget=budget, share=share).pick(line)
    assert picked == sorted(set(picked))
    assert picked
    spent, rows = Counter[Owner](), Counter[Owner]()
    for place in picked:
        spent[line[place].owner] += line[place].cost
        rows[line[place].owner] += 1
    assert spent.total() <= budget
    for owner, tokens in spent.items():
        assert not owner.request or rows[owner] == 1 or tokens <= share


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(30, 200))
def test_rows_of_no_name_fill_the_forward_in_their_order(costs: list[int], budget: int) -> None:
    picked = Turns(budget=budget, share=1).pick([Row(UNNAMED, cost) for cost in costs])
    spent = 0
    for place, cost in enumerate(costs):
        assert (place in picked) == (spent + cost <= budget)
        spent += cost * (place in picked)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(OWNERS, st.integers(1, 30), st.integers(1, 9)), min_size=2, max_size=6, unique_by=lambda one: one[0]),
    st.integers(30, 90),
)
def test_keys_and_requests_that_always_want_more_get_alike(flows: list[tuple[Owner, int, int]], budget: int) -> None:
    """Whatever their rows cost and however many they are; without a share nothing is filled up beside."""
    turns, served = Turns(budget=budget, share=1), Counter[tuple[str, ...]]()
    line = [Row(owner, cost) for owner, cost, count in flows for _ in range(count)]
    for _ in range(300):
        picked = turns.pick(line)
        for place in picked:
            for level in line[place].owner.levels:
                served[level] += line[place].cost
        line = [row for place, row in enumerate(line) if place not in picked] + [line[place] for place in picked]
    groups: dict[tuple[str, ...], list[int]] = {}
    for level in {level for owner, _, _ in flows for level in owner.levels}:
        groups.setdefault(level[:-1], []).append(served[level])
    for tokens in groups.values():
        assert max(tokens) - min(tokens) <= 4 * 30  # some rows of the largest kind
        assert min(tokens) > 0


def test_a_light_request_waits_for_no_rows_of_a_heavy_one() -> None:
    """Sixty-four rows of 32 tokens, or one of 450 at a time: of 106 tokens of its own the light one gets each at once."""
    for cost, count in ((32, 64), (450, 64), (900, 1)):
        turns, heavy = Turns(budget=1024, share=256), Owner("", "heavy")
        line = [Row(heavy, cost)] * count
        for _ in range(50):
            assert turns.pick(line)  # alone it runs
        others = 0
        for own in (60, 46):
            light = Row(Owner("", "light"), own)
            picked = turns.pick([*line, light])
            assert count in picked
            others += cost * (len(picked) - 1)
        assert others <= 2 * 128


@settings(max_examples=40)
@given(
    st.lists(st.tuples(OWNERS, st.integers(1, 20), st.integers(1, 20), st.integers(1, 6)), min_size=1, max_size=12), st.data()
)
def test_whatever_fits_alone_is_served(requests: list[tuple[Owner, int, int, int]], data: st.DataObject) -> None:
    """Rows of (owner, pages, tokens per forward, forwards), arriving at any time, under limits that each meets alone."""
    memory = data.draw(st.integers(max(pages for _, pages, _, _ in requests), 40))
    budget = data.draw(st.integers(max(tokens for _, _, tokens, _ in requests), 40))
    seats = data.draw(st.integers(1, 5))
    turns = Turns(budget=budget, share=data.draw(st.integers(1, 40)))
    arrivals = sorted(data.draw(st.lists(st.integers(0, 20), min_size=len(requests), max_size=len(requests))))
    waiting: list[int] = []
    running: list[int] = []  # longest waiting first
    left = [forwards for _, _, _, forwards in requests]
    for time in range(3_000):
        waiting += [number for number, arrival in enumerate(arrivals) if arrival == time]
        while True:
            held = Held(Row(*requests[number][:2]) for number in running)
            free = memory - sum(requests[number][1] for number in running)
            asked = [Row(*requests[number][:2]) for number in waiting]
            place = admit(asked, held, pages=free, rows=seats - len(running))
            if place is None:
                break
            running.append(waiting.pop(place))
        picked = [running[index] for index in turns.pick([Row(requests[n][0], requests[n][2]) for n in running])]
        assert bool(picked) == bool(running)
        for number in picked:
            left[number] -= 1
        running = [number for number in running if number not in picked] + [number for number in picked if left[number]]
        if not any(left):
            break
    assert not any(left)


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=30), st.integers(30, 200), st.integers(1, 200))
def test_refreshes_keep_their_budget_in_the_order_of_their_age_and_delay_no_block(
    rows: list[tuple[int, bool]], budget: int, most: int
) -> None:
    line = [Row(UNNAMED, cost, refresh) for cost, refresh in rows]
    picked = Turns(budget=budget, share=1, refresh=most).pick(line)
    mine = [place for place in picked if line[place].refresh]
    # As many of the oldest as hold, at least one, but for those that the forward itself does not hold.
    assert len(mine) <= 1 or sum(line[place].cost for place in mine) <= most
    blocks = [row for row in line if not row.refresh]
    if sum(row.cost for row in line) <= budget:
        refreshes = [place for place, row in enumerate(line) if row.refresh]
        assert mine == refreshes[: len(mine)]
        assert bool(mine) == bool(refreshes)
        assert len(picked) - len(mine) == len(blocks)
        if len(mine) < len(refreshes):
            assert sum(line[place].cost for place in refreshes[: len(mine) + 1]) > most


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 100), st.integers(0, 5))
def test_every_refresh_gets_its_turn_while_blocks_go_on(costs: list[int], most: int, blocks: int) -> None:
    """As many steps as there are refreshes at most, in their order; rows in a block take part in each."""
    turns = Turns(budget=1000, share=1, refresh=most)
    line = [(number, Row(UNNAMED, cost, True)) for number, cost in enumerate(costs)]
    line += [(-1, Row(UNNAMED, 32))] * blocks
    done: list[int] = []
    for _ in costs:
        picked = turns.pick([row for _, row in line])
        taken = [line[place] for place in picked]
        assert sum(number < 0 for number, _ in taken) == blocks
        done += [number for number, _ in taken if number >= 0]
        line = [one for place, one in enumerate(line) if place not in picked] + [one for one in taken if one[0] < 0]
    assert done == list(range(len(costs)))
