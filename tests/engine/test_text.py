"""A stream hands out only what stays, whatever the bytes and stop strings."""

import time

from hypothesis import given
from hypothesis import strategies as st

import unmask
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


TINY = unmask.load("unmask-tiny").tokenizer
USER, ASSISTANT = TINY.convert_tokens_to_ids(["<|user|>", "<|assistant|>"])


def test_a_special_token_stops_by_its_id_though_the_text_does_not_show_it() -> None:
    said = TINY.encode("It is 31.")
    tokens = [*said, USER, *TINY.encode("Next")]
    for stop in (["<|user|>"], ["nothing", "<|user|>"], ["<|assistant|>", "<|user|>"], ["<|user|>", "<|user|>Next"]):
        assert read(tokens, TINY, (1,), stop)[:3] == ("It is 31.", len(said), True), stop
    assert read(tokens, TINY, (1,), ["31.<|user|>"]).text.rstrip() == "It is"
    assert read(tokens, TINY, (1,), ["<|user|>", "is"]).text.rstrip() == "It"
    for stop in (["<|assistant|>"], ["32.<|user|>"], []):
        assert read(tokens, TINY, (1,), stop)[:3] == (TINY.decode(tokens, skip_special_tokens=True), len(tokens), False)
    assert settled(said, TINY, (1,), ["31.<|user|>"]).rstrip() == "It is"  # held back until the next token is known


@given(
    st.lists(st.sampled_from([1, USER, ASSISTANT, *TINY.encode("It is 31. Next")]), max_size=16),
    st.lists(st.sampled_from(["<|user|>", "<|assistant|>", "31.<|user|>", "<|user|>It", "is", "31"]), max_size=3),
)
def test_settled_text_only_grows_around_special_tokens(tokens: list[int], stop: list[str]) -> None:
    whole = read(tokens, TINY, (1,), stop)
    grown = ""
    for size in range(len(tokens) + 1):
        text = settled(tokens[:size], TINY, (1,), stop)
        assert text.startswith(grown)
        grown = text
    assert whole.text.startswith(grown)
    assert whole.stopped or not any(token in (1, USER) for token in tokens) or "<|user|>" not in stop
