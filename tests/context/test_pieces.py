"""Where tokens of a packed forward stand and are kept: made on the device of a few numbers, as counted one by one."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.context.pieces import Stretches, laid_out, packed
from unmask.context.plan import Query
from unmask.context.policy import CACHES, Window, policy
from unmask.context.pool import PAGE, pages_for
from unmask.context.runs import spans

SCRATCH = 10_000  # a page
ROW = st.tuples(
    st.integers(1, 30),  # prompt
    st.integers(1, 3),  # blocks of 4
    st.sampled_from(sorted(CACHES)),
    st.integers(0, 1),  # forwards of the block so far
    st.none() | st.tuples(st.integers(0, 6), st.integers(0, 3)),  # pruned suffix
    st.integers(1, 3),  # states
)


def queries(rows: list[tuple[int, int, str, int, tuple[int, int] | None, int]]) -> list[Query]:
    """Rows at their first block, whose pages lie backwards; without a cache they have none."""
    asked, page = [], 0
    for prompt, blocks, cache, age, suffix, states in rows:
        total = prompt + 4 * blocks
        plan = policy(cache, suffix)(Window(prompt=prompt, start=prompt, end=prompt + 4, total=total), age)
        pages = () if cache == "none" else tuple(reversed(range(page, page + pages_for(total + 2 * total))))
        page += len(pages)
        asked.append(Query(plan, [0] * plan.tokens, prompt, 4, states if age else 1, pages, total))
    return asked


@given(st.lists(ROW, min_size=1, max_size=5), st.sampled_from([1, 4, 32]))
def test_stretches_say_of_each_token_what_its_query_says(
    rows: list[tuple[int, int, str, int, tuple[int, int] | None, int]], tile: int
) -> None:
    asked = queries(rows)
    pieces = packed(asked, tile)
    widest = max(1, *(len(query.pages) for query in asked))
    table = [[*query.pages, *[0] * (widest - len(query.pages))] for query in asked]
    pages_QP = torch.tensor([*table, [SCRATCH] * widest])
    end = pieces[-1].place + pieces[-1].query.plan.tokens
    positions_N, slots_M = laid_out(torch.tensor(Stretches.of(pieces, padding=len(asked))), pages_QP, end, end)
    free = 0
    for piece in pieces:
        plan, pages = piece.query.plan, piece.query.pages
        assert piece.place % tile == 0
        assert all(slot // PAGE == SCRATCH for slot in slots_M[free : piece.place].tolist())
        free = piece.place + plan.tokens
        assert positions_N[piece.place : free].tolist() == plan.queried
        own = range(plan.query.start + piece.shift, plan.query.stop + piece.shift)
        if pages:
            assert slots_M[piece.place : free].tolist() == [pages[slot // PAGE] * PAGE + slot % PAGE for slot in own]


@given(st.sets(st.integers(0, 30), min_size=1), st.data())
def test_spans_are_the_positions_and_as_few_as_can_be(numbers: set[int], data: st.DataObject) -> None:
    positions = sorted(numbers)
    begin = data.draw(st.integers(0, len(positions)))
    end = data.draw(st.integers(begin, len(positions)))
    found = spans(positions, begin, end)
    assert [position for span in found for position in span] == positions[begin:end]
    gaps = sum(second - first > 1 for first, second in zip(positions[begin:end], positions[begin + 1 : end], strict=False))
    assert len(found) == (gaps + 1 if begin < end else 0)
