"""Byte automata of expressions, against Python's own regular expressions."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.errors import GrammarError
from unmask.grammar import dfa as dfa_module
from unmask.grammar.dfa import compiled, distances
from unmask.grammar.expression import ANY, NOTHING, Chars, Listed, Repeat, Text, either, maybe, seq
from unmask.grammar.regex import search, whole
from unmask.grammar.utf8 import spelled

ATOMS = st.sampled_from(["a", "b", "ä", "€", "😀", ".", "[ab]", "[^a]", "[a-ü]", r"\d", r"\w", r"\.", "[^\\d€]"])
REPEATS = st.sampled_from(["", "*", "+", "?", "{2}", "{0,2}", "{1,}", "*?"])


@st.composite
def patterns(draw: st.DrawFn, depth: int = 2) -> str:
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        grouped = depth and draw(st.booleans())
        atom = f"(?:{draw(patterns(depth=depth - 1))})" if grouped else draw(ATOMS)
        parts.append(atom + draw(REPEATS))
    text = "".join(parts)
    return f"{text}|{draw(patterns(depth=depth - 1))}" if depth and draw(st.booleans()) else text


@settings(max_examples=60)
@given(patterns(), st.lists(st.text("abä€😀.1 ", max_size=5), min_size=3, max_size=3))
def test_a_pattern_has_the_texts_that_python_finds(pattern: str, texts: list[str]) -> None:
    made, found = compiled(whole(pattern)), compiled(search(pattern))
    for text in texts:
        assert made.accepts(text.encode()) == bool(re.fullmatch(pattern, text, re.ASCII))
        assert found.accepts(text.encode()) == bool(re.search(pattern, text, re.DOTALL | re.ASCII))


def test_anchors_bind_to_their_alternative() -> None:
    for pattern in ("^ab", "ab$", "^ab$", "^a|b$", "ab", r"\Aab\z"):
        found = compiled(search(pattern))
        for text in ("ab", "xab", "abx", "xabx", "b", "xb", "ba"):
            assert found.accepts(text.encode()) == bool(re.search(pattern.replace(r"\z", r"\Z"), text)), (pattern, text)


def test_shorthands_mean_what_they_mean_everywhere() -> None:
    assert not compiled(whole(r"\d")).accepts("٣".encode())
    assert not compiled(whole(r"\D")).accepts("٣".encode())
    assert not compiled(whole(r"[^\d]")).accepts("٣".encode())
    assert compiled(whole(r"[^\D]")).accepts(b"3")
    assert compiled(whole(r"\p{Lu}\x41\u{1F600}[[:digit:]]\P{L}")).accepts("ÄA😀7!".encode())
    assert compiled(whole(r"(?P<name>a)(?<other>b)\-\0")).accepts(b"ab-\0")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a(b", "place 1: a ( is not closed"),
        ("a)", "a ) closes nothing"),
        ("[a", "a [ is not closed"),
        ("*a", "repeats nothing"),
        ("a**", "a repeat follows a repeat"),
        ("a*+", "possessive"),
        ("a{2,1}", "the wrong way round"),
        ("a{x}", "begins a repeat"),
        ("a{99999}", "at most 10,000"),
        ("(?=a)", "look-around is not supported"),
        (r"(a)\1", "back-references are not supported"),
        (r"\bword", r"\b is not supported"),
        ("(?i)a", "flags"),
        ("a^b", "may only begin"),
        ("a$b", "$ may only end"),
        ("[z-a]", "goes from one character up"),
        ("[[a]]", "classes within classes"),
        ("[[:foo:]]", "there is no class"),
        (r"\p{Foo}", "general category"),
        (r"\u{110000}", "hexadecimal"),
        ("a\\", "at the end"),
        ("(" * 200 + ")" * 200, "deeper than 100"),
    ],
)
def test_a_broken_pattern_says_where(pattern: str, words: str) -> None:
    with pytest.raises(GrammarError) as caught:
        whole(pattern)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pattern_without_text_and_one_that_is_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GrammarError, match="no text at all"):
        compiled(seq("a", NOTHING))
    monkeypatch.setattr(dfa_module, "STATES", 100)
    with pytest.raises(GrammarError, match="more than 100 states"):
        compiled(whole("(a|b)*a(a|b){12}"))


def test_the_automaton_is_the_smallest() -> None:
    assert len(compiled(whole("abc|abd|xbc|xbd")).next_SK) == 4
    assert len(compiled(whole("(a|b)*")).next_SK) == 1
    assert len(compiled(whole("[ab]{0,300}c")).next_SK) == 302


@given(st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF))
def test_a_range_is_spelled_in_utf8(one: int, other: int, code: int) -> None:
    low, high = sorted((one, other))
    text = "" if 0xD800 <= code <= 0xDFFF else chr(code)
    fits = any(
        len(sequence) == len(text.encode())
        and all(first <= byte <= last for byte, (first, last) in zip(text.encode(), sequence, strict=True))
        for sequence in spelled(low, high)
    )
    if text:
        assert fits == (low <= code <= high)


def test_every_character_is_valid_utf8_and_no_other_byte_sequence_is() -> None:
    made = compiled(Repeat(ANY))
    assert made.accepts("aä€😀\U0010ffff".encode())
    for broken in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"):
        assert not made.accepts(broken)


@pytest.mark.parametrize("needed", [(True, True, False), (False, False, False), (False, True, False)])
def test_a_list_has_its_items_in_order(needed: tuple[bool, ...]) -> None:
    items = tuple((Text(name), need) for name, need in zip("abc", needed, strict=True))
    made = compiled(Listed(items, Text(",")))
    for number in range(8):
        names = [name for place, name in enumerate("abc") if number >> place & 1]
        complete = all(name in names for name, need in zip("abc", needed, strict=True) if need)
        assert made.accepts(",".join(names).encode()) == complete
    assert not made.accepts(b"b,a")


def test_either_and_maybe() -> None:
    made = compiled(seq(either("x", Chars.of("y")), maybe("z")))
    assert [made.accepts(text) for text in (b"x", b"yz", b"z", b"xyz")] == [True, True, False, False]


def test_distances_are_the_shortest() -> None:
    assert distances(np.array([0, 0, 1, 3]), np.array([1, 2, 2, 3]), np.array([False, False, True, False])).tolist() == [
        1,
        1,
        0,
        -1,
    ]
