"""Blocks that keep the prompt's keys: what is queried, and that nothing else of an earlier block is ever read."""

from hypothesis import given
from hypothesis import strategies as st

from unmask.context.policy import Window, most_tokens, policy


def first_queries(interval: int | None, *, suffix: tuple[int, int] | None = None, lookbehind: int = 0) -> list[list[int]]:
    """What the first forward of each of four blocks of two queries, behind a prompt of three."""
    plan = policy("dual", suffix, interval)
    windows = [Window(prompt=3, start=start, end=start + 2, total=11, lookbehind=lookbehind) for start in (3, 5, 7, 9)]
    return [made.positions[made.query] for made in (plan(window, 0) for window in windows)]


def test_each_interval_in_numbers() -> None:
    everything, generated = list(range(11)), list(range(3, 11))
    assert first_queries(1) == [everything] * 4
    assert first_queries(2) == [everything, generated, everything, generated]
    assert first_queries(3) == [everything, generated, generated, everything]
    assert first_queries(None) == [everything, generated, generated, generated]
    assert first_queries(None, lookbehind=1) == [everything, *[[2, *generated]] * 3]
    assert first_queries(None, suffix=(1, 1)) == [[0, 1, 2, 3, 4, 5, 10], [3, 4, 5, 6, 7, 10], [*range(3, 11)], [*range(3, 11)]]


@given(
    prompt=st.integers(1, 9),
    length=st.integers(1, 4),
    blocks=st.integers(1, 6),
    suffix=st.none() | st.tuples(st.integers(0, 9), st.integers(0, 3)),
    cache=st.sampled_from(["prefix", "dual"]),
    interval=st.none() | st.integers(1, 4),
    lookbehind=st.integers(0, 1),
)
def test_a_slot_holds_what_the_layout_says_and_only_prompts_are_old(
    prompt: int, length: int, blocks: int, suffix: tuple[int, int] | None, cache: str, interval: int | None, lookbehind: int
) -> None:
    """Every slot that a forward sees was written for the position it stands for: by this block, or it is the prompt's."""
    plan = policy(cache, suffix, interval)
    written: dict[int, tuple[int, int]] = {}  # slot -> its position, and the number of the block that wrote it
    for number in range(blocks):
        start = prompt + number * length
        window = Window(prompt=prompt, start=start, end=start + length, total=prompt + blocks * length, lookbehind=lookbehind)
        assert window.number == number
        for age in range(3):
            made = plan(window, age)
            assert made.tokens <= most_tokens(cache, window.total, length, 1)
            written |= {slot: (made.positions[slot], number) for slot in range(made.query.start, made.query.stop)}
            for slot, position in enumerate(made.positions):
                place, writer = written[slot]
                assert place == position
                oldest = number - (number % interval if interval else number)
                assert writer >= (oldest if position < prompt - lookbehind else number)
