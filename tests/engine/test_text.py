"""A stream hands out only what stays, whatever the bytes and stop strings."""

import time

from hypothesis import given
from hypothesis import strategies as st

from unmask.engine.text import read, settled

EOS = 0


class Bytes:
    """A token is a byte."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(ids).decode(errors="replace")


def ids(text: str) -> list[int]:
    return list(text.encode())


def test_half_letters_and_half_stop_strings_are_held_back() -> None:
    assert settled(ids("a€")[:-1], Bytes(), (EOS,)) == "a"
    assert settled(ids("a€"), Bytes(), (EOS,)) == "a€"
    assert settled(ids("one st"), Bytes(), (EOS,), ["stop"]) == "one "
    assert settled(ids("one sta"), Bytes(), (EOS,), ["stop"]) == "one sta"
    assert settled(ids("one stop"), Bytes(), (EOS,), ["stop"]) == "one "
    assert settled([*ids("one st"), EOS], Bytes(), (EOS,), ["stop"]) == "one st"
    # "bcx" has ended the answer, and "abcxy" may yet end it earlier.
    assert settled(ids("zabcx"), Bytes(), (EOS,), ["bcx", "abcxy"]) == "z"
    assert settled(ids("zabcxy"), Bytes(), (EOS,), ["bcx", "abcxy"]) == "z"
    assert settled([1, 2], None, (EOS,)) == ""


@given(
    st.lists(st.sampled_from([EOS, *ids("abcé€\N{REPLACEMENT CHARACTER}"), 0xC3, 0xFF]), max_size=24),
    st.lists(st.text("abcé€", min_size=1, max_size=4), max_size=3),
)
def test_settled_text_only_grows_and_is_the_beginning_of_the_answer(tokens: list[int], stop: list[str]) -> None:
    whole = read(tokens, Bytes(), (EOS,), stop).text
    grown = ""
    for size in range(len(tokens) + 1):
        text = settled(tokens[:size], Bytes(), (EOS,), stop)
        assert text.startswith(grown)
        grown = text
    assert whole.startswith(grown)


def test_a_long_stop_string_costs_no_more_than_the_text() -> None:
    began = time.perf_counter()
    assert settled(ids("ab"), Bytes(), (EOS,), ["b" * 10**6]) == "a"
    assert time.perf_counter() - began < 1.0
