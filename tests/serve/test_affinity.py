"""Requests that begin alike go to the same replica, and load is not forgotten for it."""

import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from unmask.serve.affinity import Homes, prefix_keys


def chat(*turns: str, **fields: object) -> bytes:
    return json.dumps({**fields, "messages": [{"role": "user", "content": turn} for turn in turns]}).encode()


def test_keys_are_those_of_a_common_beginning() -> None:
    first, second = prefix_keys(chat("s" * 900 + "one")), prefix_keys(chat("s" * 900 + "two" * 100, temperature=0))
    assert [len(first), len(second)] == [2, 3]
    assert first == second[:2]
    assert prefix_keys(chat("t" * 900))[0] != first[0]
    assert prefix_keys(chat("s" * 900), "Bearer a")[0] != prefix_keys(chat("s" * 900), "Bearer b")[0]
    turn = prefix_keys(chat("s" * 900 + "one", "an answer", "and the next" * 50))
    assert turn[:2] == first


def test_what_is_no_prompt_has_no_keys() -> None:
    for body in (b"", b"{", b"[1, 2]", b"null", b'{"prompt": "short"}', b'{"model": "%s"}' % (b"a" * 999)):
        assert prefix_keys(body) == []


def test_the_longest_beginning_counts() -> None:
    homes = Homes(slack=4)
    homes.choose(["system", "first chat"], {"a": 0, "b": 1})
    homes.choose(["system", "second chat"], {"a": 9, "b": 0})
    assert homes.choose(["system", "first chat"], {"a": 1, "b": 1}) == "a"
    assert homes.choose(["system", "second chat"], {"a": 1, "b": 1}) == "b"
    assert homes.choose(["system", "third chat"], {"a": 1, "b": 1}) == "b"  # where the system prompt went last
    assert homes.choose(["system", "first chat"], {"b": 1}) == "b"  # the other has died


@given(st.lists(st.sampled_from(["x", "y", "z", ""]), min_size=1, max_size=200), st.integers(0, 8))
def test_none_gets_much_busier_than_another(beginnings: list[str], slack: int) -> None:
    """Requests that never end: the busiest replica has at most the slack and one more than the least busy."""
    homes, load = Homes(slack=slack), Counter({"a": 0, "b": 0, "c": 0})
    for beginning in beginnings:
        load[homes.choose([beginning] if beginning else [], load)] += 1
        assert max(load.values()) - min(load.values()) <= slack + 1
