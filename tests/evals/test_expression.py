"""Arithmetic without eval: exact, bounded, and a ValueError for any other text."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.evals.expression import evaluate

EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({parts[0]} {parts[1]}{parts[2]})"),
    max_leaves=6,
)


@given(EXPRESSIONS, st.sampled_from("+-*/"), EXPRESSIONS)
def test_it_calculates_as_python_does(left: str, sign: str, right: str) -> None:
    text = f"{left}{sign}-{right}"
    python = re.sub(r"\d+", r"Fraction(\g<0>)", text)
    try:
        value, _ = evaluate(text)
    except ValueError:
        with pytest.raises(ZeroDivisionError):
            eval(python)
    else:
        assert value == eval(python)


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("1-2-3", -4, [1, 2, 3]),
        ("8/4/2", 1, [8, 4, 2]),
        ("1+2*3", 7, [1, 2, 3]),
        ("8/(3-8/3)", 24, [8, 3, 8, 3]),
        ("-3+10", 7, [-3, 10]),
        ("2*-3", -6, [2, -3]),
        ("-(1+2)", -3, [1, 2]),
        (" 0.5 * 4 ", 2, [Fraction(1, 2), 4]),
    ],
)
def test_values(text: str, value: int, numbers: list[int]) -> None:
    assert evaluate(text) == (value, numbers)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "1+",
            "+1",
            "*",
            "(",
            ")",
            "()",
            "(1",
            "1)",
            "1 2",
            "1(2)",
            "2**9",
            "2^9",
            "1/0",
            "1/(2-2)",
            "--1",
            "1.2.3",
            ".",
        ),
        *("9" * 101, "(" * 50 + "1" + ")" * 50, "1e9", "a", "__import__('os')", "1//2", "1%2", "-", "1-", "(((((((((("),
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        evaluate(text)


@given(st.text() | st.text(alphabet="0123456789+-*/(). ", max_size=120))
def test_any_text(text: str) -> None:
    try:
        value, numbers = evaluate(text)
    except ValueError:
        return
    assert isinstance(value, Fraction)
    assert numbers
