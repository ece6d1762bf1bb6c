"""Regular expressions as values: what regex.py and schema.py make and dfa.py reads."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

LAST = 0x10FFFF  # the last code point
_SURROGATES = (0xD800, 0xDFFF)  # no UTF-8 text holds one


@dataclass(frozen=True)
class Chars:
    """One character of a set, as ranges of code points, in order and apart.

    >>> Chars.of("a", "c", ("x", "z")).without(Chars.of("y")).ranges
    ((97, 97), (99, 99), (120, 120), (122, 122))
    """

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, *parts: str | tuple[str, str]) -> Self:
        """Of single characters and pairs of a range's first and last."""
        return cls.join((ord(part[0]), ord(part[-1])) for part in parts)

    @classmethod
    def join(cls, ranges: Iterable[tuple[int, int]]) -> Self:
        """Of ranges in any order that may overlap."""
        joined: list[tuple[int, int]] = []
        for low, high in sorted(ranges):
            if joined and low <= joined[-1][1] + 1:
                joined[-1] = joined[-1][0], max(joined[-1][1], high)
            else:
                joined.append((low, high))
        return cls(tuple(joined))

    def without(self, other: "Chars") -> "Chars":
        """The characters that `other` has not."""
        left = list(self.ranges)
        for low, high in other.ranges:
            left = [
                part
                for begin, end in left
                for part in ((begin, min(end, low - 1)), (max(begin, high + 1), end))
                if part[0] <= part[1]
            ]
        return Chars.join(left)

    def __contains__(self, letter: str) -> bool:
        return any(low <= ord(letter) <= high for low, high in self.ranges)


@dataclass(frozen=True)
class Text:
    """These characters and no others."""

    text: str


@dataclass(frozen=True)
class Seq:
    """One part behind the other; without parts the empty text."""

    parts: "tuple[Expression, ...]"


@dataclass(frozen=True)
class Either:
    """Any of the parts; without parts there is no such text."""

    parts: "tuple[Expression, ...]"


@dataclass(frozen=True)
class Repeat:
    """A part, `least` to `most` times; `most` None: any number."""

    part: "Expression"
    least: int = 0
    most: int | None = None


@dataclass(frozen=True)
class Joined:
    """One or more of an item with a separator between them."""

    item: "Expression"
    separator: "Expression"


@dataclass(frozen=True)
class Listed:
    """Items in order with a separator between them; those that are not required may be absent."""

    items: "tuple[tuple[Expression, bool], ...]"
    separator: "Expression"


Expression = Chars | Text | Seq | Either | Repeat | Joined | Listed
ANY = Chars(((0, _SURROGATES[0] - 1), (_SURROGATES[1] + 1, LAST)))
NOTHING = Either(())  # no text at all, not even the empty one
DIGIT = Chars.of(("0", "9"))


def seq(*parts: Expression | str) -> Expression:
    """A sequence in which strings stand for themselves; one that needs what no text is, is none itself."""
    made = tuple(Text(part) if isinstance(part, str) else part for part in parts)
    return NOTHING if NOTHING in made else Seq(made)


def either(*parts: Expression | str) -> Expression:
    """A choice in which strings stand for themselves."""
    made = tuple(Text(part) if isinstance(part, str) else part for part in parts)
    made = tuple(dict.fromkeys(part for part in made if part != NOTHING))
    return made[0] if len(made) == 1 else Either(made)


def maybe(part: Expression | str) -> Expression:
    """The part, or nothing."""
    return Repeat(seq(part), 0, 1)


def mapped(expression: Expression, change: Callable[[Chars], Expression]) -> Expression:
    """The expression with every character set replaced, such as by the ways in which a string of JSON spells it."""
    match expression:
        case Chars():
            return change(expression)
        case Text(text):
            return Seq(tuple(change(Chars.of(letter)) for letter in text))
        case Seq(parts):
            return Seq(tuple(mapped(part, change) for part in parts))
        case Either(parts):
            return Either(tuple(mapped(part, change) for part in parts))
        case Repeat(part, least, most):
            return Repeat(mapped(part, change), least, most)
        case Joined(item, separator):
            return Joined(mapped(item, change), mapped(separator, change))
        case Listed(items, separator):
            return Listed(tuple((mapped(part, change), needed) for part, needed in items), mapped(separator, change))
