"""The answer that a text states, and numbers compared by value."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.tasks.answers import after_answer_is, boxed, marked_number, stated_number


@pytest.mark.parametrize(
    "text",
    [
        "1007",
        "1,007",
        "1007.00",
        "$1,007.",
        "1,007%",
        r"\$1,007",
        r"1{,}007",
        r"1,\!007",
        "**1,007**",
        "$1,007$",
        r"\(1007\)",
        "+1007",
        "01007 eggs",
        "2 + 1005 = 1007",
    ],
)
def test_forms_of_a_number(text: str) -> None:
    for said in (text, f"So 3 of 4, it is {text}", f"The answer is {text}", rf"\boxed{{{text}}} in 2 steps"):
        assert stated_number(said) == 1007, said
    if "=" not in text and not text.startswith(("+", r"\(")):
        assert marked_number(f"5\n#### {text}\n") == 1007


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("-3", -3),
        ("\u22123", -3),
        ("-$3", -3),
        ("$-3", -3),
        ("10-3", 3),
        ("$10-3", 3),
        ("(1)-3", 3),
        (".5", Decimal("0.5")),
        ("1,2,3", 3),
        ("12,3456", 3456),
        ("3.", 3),
        ("The answer is 4. The answer is 5. I used 6 eggs.", 5),
        ("The answer is 5 of 6.", 5),
        ("THE ANSWER IS: 5 (of 6)", 5),
        ("The answer is:\n\n5", 5),
        ("The answer is clear. So 5", 5),
        (r"The answer is 4. \boxed{5}", 5),
        (r"\boxed{4}, no, \boxed{x = 2 + 3 = 5} of 6", 5),
        (r"\boxed{4} #### 5 of 6", 5),
        (r"\boxed{\text{five}} of 6", None),
        (r"\boxed{\frac{18}{5}}", None),
        ("The answer is 18/5", None),
        ("The answer is 18 - 5", None),
        ("<answer>42</answer> then 7", 42),
        ("<think>6 * 7</think><answer>\n\\boxed{42}\n</answer> in 2 steps", 42),
        ("<answer>The answer is 42, of 50.</answer>", 42),
        ("<answer>forty-two</answer> of 50", None),
        ("<answer>41</answer><answer>42", 41),
        ("#### 5 <answer>42</answer>", 5),
        ("1e3 eggs", 1000),
        ("It takes 1.5e-3.", Decimal("0.0015")),
        ("It takes 2.5E+2", 250),
        ("3e5f", 5),
        ("1\u202f234 eggs", 1234),
        ("1\u00a0234\u00a0567", 1234567),
        (r"\boxed{1\,234}", 1234),
        ("5 100", 100),
        ("no", None),
        ("", None),
    ],
)
def test_which_number_is_stated(text: str, number: Decimal | int | None) -> None:
    assert stated_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 3\n#### 4 eggs", 4),
        ("#### $-1,000.50", Decimal("-1000.5")),
        ("#### 4\n#### Done", 4),
        ("### 4", None),
        ("#### about 4", None),
        ("4", None),
        ("####\n4", None),
        ("#### 1 234", 1234),
        ("#### $1 234 567.5", Decimal("1234567.5")),
        ("#### 1 234.", 1234),
        ("#### -12 345 eggs", -12345),
        ("#### 1 2345", 1),
        ("#### 1e3", 1000),
        ("#### 3/4", Decimal("0.75")),
        ("#### 3 / 4.", Decimal("0.75")),
        ("#### -1/2 of it", Decimal("-0.5")),
        ("#### 7/0", None),
        ("#### 3/4/2020", 3),
    ],
)
def test_the_number_behind_the_mark(text: str, number: Decimal | int | None) -> None:
    assert marked_number(text) == number


def test_boxes() -> None:
    assert boxed(r"\boxed{a} \boxed{\frac{1}{2}} {c}") == r"\frac{1}{2}"
    assert boxed(r"\boxed {a}") == "a"
    assert boxed(r"\boxed{\left\{ x \right.}") == r"\left\{ x \right."
    assert boxed(r"\boxed{\boxed{5}}") == r"\boxed{5}"
    assert boxed(r"\boxed{a} \boxed{b") == "a"
    assert boxed(r"} \boxed{a}") == "a"
    assert boxed("boxed{a}") is None
    assert after_answer_is("nothing") is None


@given(st.text() | st.text(alphabet=r"$\-+.,#0123{}()= abdeinorswx"))
def test_any_text(text: str) -> None:
    assert marked_number(text) is None or stated_number(text) == marked_number(text)
    box = boxed(text)
    assert box is None or rf"\boxed{{{box}}}" in text.replace(" ", "") or "boxed" in text


@given(st.decimals(min_value=-(10**12), max_value=10**12, places=2), st.sampled_from(["", "$"]))
def test_a_printed_number_is_read_back(number: Decimal, sign: str) -> None:
    for printed in (f"{number}", f"{number:,}", f"{number}00."):
        said = printed.replace("-", f"-{sign}") if printed.startswith("-") else sign + printed
        assert stated_number(f"It is {said}") == marked_number(f"#### {said}") == number


@pytest.mark.parametrize("piece", ["1,111", "1", "answer is ", r"\boxed{", "{", "#### ", "-$", r"\boxed ", "= 1 ", "1{,}", "."])
def test_long_texts_take_no_time(piece: str) -> None:
    """A quadratic search would take minutes here."""
    stated_number(piece * 30_000)
    marked_number(piece * 30_000)
