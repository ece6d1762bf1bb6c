"""The scalars of JSON as expressions: strings, numbers, and texts of a format."""

import math
from fractions import Fraction

from unmask.grammar.expression import (
    ANY,
    DIGIT,
    NOTHING,
    Chars,
    Expression,
    Repeat,
    Text,
    either,
    mapped,
    maybe,
    seq,
)
from unmask.grammar.regex import whole

DIGITS = 15  # of a number's whole part, and of its fraction, where nothing bounds them: as many as a float64 keeps
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_CONTROL = Chars.of(("\0", "\x1f"))
_PLAIN = ANY.without(Chars.join([*Chars.of(*_SHORT).ranges, *_CONTROL.ranges]))
_NONZERO = Chars.of(("1", "9"))
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-2]):[0-5][0-9])"
_DATE = r"[0-9]{3}[1-9]-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL = "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"({_DATE})T({_TIME})",
    "email": rf"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@({_LABEL}\.)+[a-z]{{2,8}}",
    "hostname": rf"({_LABEL}\.){{0,4}}{_LABEL}",
    "ipv4": rf"({_BYTE}\.){{3}}{_BYTE}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
}


def escaped(chars: Chars) -> Expression:
    """One of these characters, as a string of JSON spells it; a control character only where there is no other."""
    plain = chars.without(chars.without(_PLAIN))
    ways: list[Expression] = [plain] if plain.ranges else []
    ways += [Text(short) for letter, short in _SHORT.items() if letter in chars]
    return either(*ways) if ways else either(*(Text(f"\\u{code:04x}") for code in range(0x20) if chr(code) in chars))


def string(value: Expression) -> Expression:
    """A string of JSON whose value is of this expression."""
    return seq('"', mapped(value, escaped), '"')


def any_string(least: int = 0, most: int | None = None) -> Expression:
    """A string of so many characters."""
    return string(Repeat(ANY, least, most))


def of_format(name: str) -> Expression:
    """A string of one of `FORMATS`."""
    return string(whole(FORMATS[name]))


def integer(low: int | None = None, high: int | None = None, *, zeros: int = 0) -> Expression:
    """A whole number within bounds, both of them included, that ends with so many zeros.

    >>> from unmask.grammar.dfa import compiled
    >>> made = compiled(integer(-3, 120))
    >>> [made.accepts(str(number).encode()) for number in (-4, -3, 0, 99, 120, 121)]
    [False, True, True, True, True, False]
    """
    unit, most = 10**zeros, 10**DIGITS - 1
    if low is None:
        low = -most * unit if high is None else min(-most * unit, 10 * high)
    if high is None:
        high = max(most * unit, 10 * low)
    low, high = -(-low // unit), high // unit
    if low > high:
        return NOTHING
    tail = "0" * zeros
    return either(
        *(["0"] if low <= 0 <= high else []),
        seq(_whole(max(low, 1), high), tail) if high >= 1 else NOTHING,
        seq("-", _whole(max(-high, 1), -low), tail) if low <= -1 else NOTHING,
    )


def _whole(low: int, high: int) -> Expression:
    """Digits of the numbers from `low` to `high`, both above 0, of every length that they have."""
    if low > high:
        return NOTHING
    parts = []
    for size in range(len(str(low)), len(str(high)) + 1):
        parts.append(_fixed(str(max(low, 10 ** (size - 1))), str(min(high, 10**size - 1))))
    return either(*parts)


def _fixed(low: str, high: str) -> Expression:
    """Likewise, of one length: linear in the digits."""
    if set(low) <= {"0"} and set(high) <= {"9"}:
        return Repeat(DIGIT, len(low), len(low))
    if low[0] == high[0]:
        return seq(low[0], _fixed(low[1:], high[1:]))
    rest = len(low) - 1
    inner = Chars.of((chr(ord(low[0]) + 1), chr(ord(high[0]) - 1))) if ord(high[0]) - ord(low[0]) > 1 else None
    return either(
        seq(low[0], _fixed(low[1:], "9" * rest)),
        seq(inner, Repeat(DIGIT, rest, rest)) if inner else NOTHING,
        seq(high[0], _fixed("0" * rest, high[1:])),
    )


def number(low: Fraction | None = None, high: Fraction | None = None) -> Expression:
    """A number within bounds, both of them included; with bounds it has no exponent, and bounds count to the next whole number.

    >>> from unmask.grammar.dfa import compiled
    >>> made = compiled(number(Fraction(-1), Fraction(5, 2)))
    >>> [made.accepts(text) for text in (b"-1", b"-0.5", b"1.99", b"2.0", b"2.5", b"-1.5")]
    [True, True, True, True, False, False]
    """
    fraction = seq(".", Repeat(DIGIT, 1, DIGITS))
    if low is None and high is None:
        exponent = seq(Chars.of("e", "E"), maybe(Chars.of("+", "-")), _NONZERO, maybe(DIGIT))
        whole_part = either("0", seq(_NONZERO, Repeat(DIGIT, 0, DIGITS - 1)))
        return seq(maybe("-"), whole_part, maybe(fraction), maybe(exponent))
    most = 10**DIGITS - 1
    least, greatest = (-most if low is None else math.ceil(low)), (most if high is None else math.floor(high))
    if least > greatest:
        return NOTHING
    above, below = max(least, 0), max(-greatest, 0)
    return either(
        seq(integer(least, greatest), maybe(seq(".", Repeat(Text("0"), 1, DIGITS)))),
        seq(integer(above, greatest - 1), fraction) if greatest > above else NOTHING,
        seq("-", integer(below, -least - 1), fraction) if -least > below else NOTHING,
    )
