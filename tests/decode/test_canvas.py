"""The one place that writes a token: what is given keeps its token whatever is committed around it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.decode.canvas import Canvas

MASK = 9


@given(
    prompt=st.lists(st.integers(0, 8), min_size=1, max_size=6),
    answer=st.integers(1, 12),
    fixed=st.dictionaries(st.integers(0, 11), st.integers(0, 8)),
    data=st.data(),
)
def test_what_is_given_can_be_committed_again_and_never_changed(
    prompt: list[int], answer: int, fixed: dict[int, int], data: st.DataObject
) -> None:
    fixed = {offset: token for offset, token in fixed.items() if offset < answer}
    canvas = Canvas(prompt, answer, mask_id=MASK, fixed=fixed)
    start = data.draw(st.integers(0, len(prompt) + answer - 1))
    length = data.draw(st.integers(1, len(prompt) + answer - start))
    block = data.draw(st.lists(st.integers(0, MASK), min_size=length, max_size=length))
    before = list(canvas.tokens)
    given_places = set(range(len(prompt))) | {len(prompt) + offset for offset in fixed}
    if any(before[place] != token for place, token in enumerate(block, start) if place in given_places):
        with pytest.raises(AssertionError, match="is fixed"):
            canvas.commit(start, block)
        assert canvas.tokens == before
    else:
        canvas.commit(start, block)
        assert canvas.tokens == [*before[:start], *block, *before[start + length :]]
    assert all(canvas.tokens[place] == before[place] for place in given_places)
    assert MASK not in canvas.written
