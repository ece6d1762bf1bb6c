r"""The result that a text states: a number after ####, in <answer>, in a box, after "the answer is", or its last number.

Numbers are compared by value: 1,007 is $1007.00 and 1e3 is 1000, and a percent sign or a full stop after it is ignored.
"""

import re
from decimal import Decimal

_BRACE = re.compile(r"\\boxed\s*\{|\\[{}]|[{}]")
# \u2212 is a typeset minus; after a digit, a letter or a bracket, either sign means subtraction.
# LaTeX writes 1{,}007, 1,\!007 and 1\,007, typesetters put a space between thousands that does not break.
_COMMA = r"(?:,(?:\\!)?|\{,\}|\\,|[\u00a0\u2009\u202f])"
_THOUSANDS = rf"[0-9]{{1,3}}(?:{_COMMA}[0-9]{{3}})+(?![0-9])(?:\.[0-9]+)?"
_POWER = r"(?:[eE][-+]?[0-9]{1,2}(?![0-9A-Za-z]|\.[0-9]))?"
_NUMBER = rf"(?:(?<![\w)}}\]])[-\u2212])?(?:\\?\$[-\u2212]?)?(?:{_THOUSANDS}|(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+){_POWER})"
_ANY = re.compile(_NUMBER)
# Behind the mark thousands may stand apart (1 234), and a fraction is a number (3/4).
_APART = r"[-\u2212]?\$?[0-9]{1,3}(?: [0-9]{3})+(?:\.[0-9]+)?(?![0-9])"
_MARKED = re.compile(rf"####[ *]*({_APART}|{_NUMBER})(?: ?/ ?([0-9]+)(?![0-9/]|\.[0-9]))?")
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_LINE = re.compile(r"####[ \t]*([^\n]*)")
# Beside a number this makes a formula of it, which words and units do not: x^2, 3 + y, \sqrt{2}, 18x.
_FORMULA = re.compile(
    r"[\^_/+<>|]|(?<!\w)[-\u2212](?!\w)|\\(?!(?:text|mathrm|mbox|left|right)\b|[^a-zA-Z])|(?<=\0)[^\W\d_](?![^\W\d_])"
)
# After a number this begins a calculation that is not carried out: 18/5, 18 - 5, \frac{18}{5}.
_GOES_ON = re.compile(r"\s*(?:[-+*/^\u00d7\u00f7\u2212]\s*[0-9($\\]|\\(?:times|cdot|div)|\}\s*\{)")


def boxed(text: str) -> str | None:
    r"""The content of the last complete \boxed{...} of a text.

    >>> boxed(r"So \boxed{1}, or rather \boxed{\frac{1}{2}}."), boxed(r"\boxed{1")
    ('\\frac{1}{2}', None)
    """
    found, opened = None, list[int | None]()  # start of each open box's content; None for another brace
    for brace in _BRACE.finditer(text):
        if brace[0] == "}":
            begin = opened.pop() if opened else None
            if begin is not None:
                found = text[begin : brace.start()]
        elif brace[0] == "{":
            opened.append(None)
        elif brace[0].startswith("\\boxed"):
            opened.append(brace.end())
    return found


def in_tags(text: str) -> str | None:
    """The content of the last complete <answer>...</answer> of a text, as reasoning prompts ask for it.

    >>> in_tags("<answer>1</answer> or rather <ANSWER> 2 </ANSWER>"), in_tags("<answer>1")
    (' 2 ', None)
    """
    end = None
    for tag in reversed(list(_TAG.finditer(text))):
        if tag[1]:
            end = tag.start() if end is None else end
        elif end is not None:
            return text[tag.end() : end]
    return None


def after_answer_is(text: str) -> str | None:
    """The rest of the sentence after the last "answer is".

    >>> after_answer_is("The answer is 4. No: the answer is 5.5. Done.")
    ' 5.5'
    """
    parts = re.split(r"answer is:?", text, flags=re.IGNORECASE)
    return None if len(parts) == 1 else re.split(r"\.(?:\s|$)|\n", parts[-1], maxsplit=1)[0]


def marked_number(text: str) -> Decimal | None:
    r"""The number after the last #### that has one, as at the end of GSM8K's answers.

    >>> marked_number("#### Sum: 3 + 4\n#### 1,007.00") == 1007
    True
    >>> marked_number("#### 1 234"), marked_number("#### 3/4")
    (Decimal('1234'), Decimal('0.75'))
    """
    found: list[tuple[str, str]] = _MARKED.findall(text)
    if not found:
        return None
    above, below = found[-1]
    number = _value(above)
    if not below:
        return number
    return number / Decimal(below) if Decimal(below) else None


def stated_number(text: str) -> Decimal | None:
    r"""The number that a text gives as its result: after ####, in <answer>, boxed, after "answer is", or the last one.

    The most explicit form decides, even if it does not hold a number.

    >>> stated_number(r"3 + 4 = 7, so \boxed{7} in 2 steps"), stated_number("The answer is 3 + 4 = $7.")
    (Decimal('7'), Decimal('7'))
    >>> stated_number("10-3 is 7"), stated_number("The answer is 36/5."), stated_number("none")
    (Decimal('7'), None, None)
    >>> stated_number("<answer>42</answer> then 7")
    Decimal('42')
    """
    marked = marked_number(text)
    if marked is not None:
        return marked
    tagged = in_tags(text)
    if tagged is not None:
        return stated_number(tagged)
    box = boxed(text)
    if box is not None:
        return _result(box)
    said = after_answer_is(text)
    if said is not None and _ANY.search(said):
        return _result(said)
    found: list[str] = _ANY.findall(text)
    return _value(found[-1]) if found else None


def statement(text: str) -> str | None:
    r"""What a text states, in words or figures: the line after ####, in <answer>, in a box, or behind "answer is".

    >>> statement("Hm. The answer is **Paris**."), statement(r"\boxed{\frac{1}{2}} of 3"), statement("It is 4.")
    ('**Paris**', '\\frac{1}{2}', None)
    """
    lines: list[str] = _LINE.findall(text)
    tagged = in_tags(text)
    if not lines and tagged is not None:
        return statement(tagged) or tagged.strip() or None
    said = lines[-1] if lines else boxed(text)
    said = after_answer_is(text) if said is None else said
    return None if said is None else said.strip() or None


def only_number(text: str) -> Decimal | None:
    r"""The number of a text that holds one and no formula, after the last "="; words and units beside it do not matter.

    >>> only_number("x = $18.00"), only_number(r"18\text{ eggs}"), only_number(r"\frac{1}{2}"), only_number("2x")
    (Decimal('18.00'), Decimal('18'), None, None)
    """
    result = text.rpartition("=")[2]
    numbers = list(_ANY.finditer(result))
    if len(numbers) != 1 or _FORMULA.search(result[: numbers[0].start()] + "\0" + result[numbers[0].end() :]):
        return None
    return _value(numbers[0][0])


def _result(statement: str) -> Decimal | None:
    """The first number after the last "=", unless a calculation follows it."""
    result = statement.rpartition("=")[2]
    number = _ANY.search(result)
    return None if number is None or _GOES_ON.match(result, number.end()) else _value(number[0])


def _value(number: str) -> Decimal:
    figures, _, power = number.lower().partition("e")
    sign = "-" if re.search(r"[-\u2212]", figures) else ""
    return Decimal(sign + re.sub(r"[^0-9.]", "", figures)) * Decimal(10) ** int(power or 0)
