r"""Regular expressions: the syntax that Rust's regex crate, Python and ECMAScript have in common, without look-around.

What a shorthand means differs between them where text is not ASCII. Here it is what it means in all of them: `\d`, `\w` and
`\s` are ASCII, their opposites leave out every digit, letter and space of Unicode, and a dot is no end of a line.
"""

import functools
import string
import unicodedata
from dataclasses import dataclass
from typing import NoReturn

from unmask.errors import GrammarError
from unmask.grammar.expression import ANY, DIGIT, LAST, Chars, Either, Expression, Repeat, Seq, either, seq

_MOST = 10_000  # times that a part may be repeated by number
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
_DOT = ANY.without(Chars.of("\n", "\r", "\N{LINE SEPARATOR}", "\N{PARAGRAPH SEPARATOR}"))
_WORD = Chars.of(("0", "9"), ("A", "Z"), ("a", "z"), "_")
_SPACE = Chars.of(*" \t\n\r\f\v")
_NARROW = {"d": DIGIT, "w": _WORD, "s": _SPACE}
_POSIX = {
    "alnum": Chars.of(("0", "9"), ("A", "Z"), ("a", "z")),
    "alpha": Chars.of(("A", "Z"), ("a", "z")),
    "digit": DIGIT,
    "lower": Chars.of(("a", "z")),
    "upper": Chars.of(("A", "Z")),
    "punct": Chars.of(*string.punctuation),
    "space": _SPACE,
    "word": _WORD,
    "xdigit": Chars.of(("0", "9"), ("A", "F"), ("a", "f")),
}


@dataclass(frozen=True)
class _Set:
    """A character class as it is to be written, and the shorthands in it: its opposite leaves out all that they could mean."""

    narrow: Chars
    shorthands: str = ""

    def opposite(self) -> "_Set":
        wide = Chars.join(self.narrow.ranges + tuple(part for letter in self.shorthands for part in _wide(letter).ranges))
        return _Set(ANY.without(wide))

    def __or__(self, other: "_Set") -> "_Set":
        return _Set(Chars.join(self.narrow.ranges + other.narrow.ranges), self.shorthands + other.shorthands)


@dataclass(frozen=True)
class Branch:
    """One of a pattern's alternatives, and whether `^` and `$` stand around it."""

    expression: Expression
    begins: bool
    ends: bool


def whole(pattern: str) -> Expression:
    r"""The texts that the pattern matches from beginning to end. Raises GrammarError, which says where it is wrong.

    >>> from unmask.grammar.dfa import compiled
    >>> compiled(whole(r"So [0-9]{2,}\.")).accepts(b"So 123.")
    True
    """
    return either(*(branch.expression for branch in _Parser(pattern).branches()))


def search(pattern: str) -> Expression:
    """The texts in which the pattern matches somewhere, as JSON schema's `pattern` has it."""
    around = Repeat(ANY)
    return either(
        *(
            seq(*([] if branch.begins else [around]), branch.expression, *([] if branch.ends else [around]))
            for branch in _Parser(pattern).branches()
        )
    )


class _Parser:
    """Recursive descent: alternatives of sequences of repeated atoms."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.place, self.depth = pattern, 0, 0

    def branches(self) -> list[Branch]:
        """The whole pattern."""
        found = [self._branch()]
        while self._take("|"):
            found.append(self._branch())
        if self.place < len(self.pattern):
            self._fail("a ) closes nothing")
        return found

    def _branch(self) -> Branch:
        begins = False
        while self._take("^") or self._take("\\A"):
            begins = True
        parts = self._sequence()
        ends = False
        while self._take("$") or self._take("\\z") or self._take("\\Z"):
            ends = True
        if self._peek() not in ("", "|", ")"):
            self._fail("$ may only end the pattern")
        return Branch(Seq(tuple(parts)), begins, ends)

    def _sequence(self) -> list[Expression]:
        parts: list[Expression] = []
        while self._peek() not in ("", "|", ")", "$") and not self.pattern.startswith(("\\z", "\\Z"), self.place):
            parts.append(self._repeated())
        return parts

    def _repeated(self) -> Expression:
        part, times = self._atom(), self._times()
        if times is None:
            return part
        if not self._take("?") and self._peek() == "+":  # lazy is the same language
            self._fail("possessive repeats are not supported")
        if self._peek() in ("*", "+", "?") or self._times() is not None:
            self._fail("a repeat follows a repeat: put the part in ( )")
        return Repeat(part, *times)

    def _times(self) -> tuple[int, int | None] | None:
        for sign, times in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return times
        if self._peek() != "{":
            return None
        end = self.pattern.find("}", self.place)
        least, comma, most = self.pattern[self.place + 1 : max(end, 0)].replace(" ", "").partition(",")
        if not (least or most) or not all(part.isdecimal() and part.isascii() for part in (least, most) if part):
            self._fail("{ begins a repeat such as {2} or {2,5}; write \\{ for the sign itself")
        numbers = int(least or 0), (int(most) if most else None if comma else int(least))
        if max(numbers[0], numbers[1] or 0) > _MOST:
            self._fail(f"at most {_MOST:,} repeats can be counted")
        if numbers[1] is not None and numbers[1] < numbers[0]:
            self._fail(f"{{{numbers[0]},{numbers[1]}}} has its bounds the wrong way round")
        self.place = end + 1
        return numbers

    def _atom(self) -> Expression:
        letter = self._peek()
        if letter == "(":
            return self._group()
        if letter == "[":
            return self._class().narrow
        if letter == "\\":
            return self._escape(inside=False).narrow
        if letter in "*+?{":
            self._fail(f"{letter} repeats nothing; write \\{letter} for the sign itself")
        if letter == "^":
            self._fail("^ may only begin the pattern")
        self.place += 1
        return _DOT if letter == "." else Chars.of(letter)

    def _group(self) -> Expression:
        for sign, what in (("(?=", "look-around"), ("(?!", "look-around"), ("(?<=", "look-around"), ("(?<!", "look-around")):
            if self.pattern.startswith(sign, self.place):
                self._fail(f"{what} is not supported: no automaton has it")
        begin, self.depth = self.place, self.depth + 1
        if self.depth > 100:
            self._fail("groups nest deeper than 100")
        self.place += 1
        if self._take("?P<") or self._take("?<"):
            end = self.pattern.find(">", self.place)
            if not self.pattern[self.place : max(end, 0)].isidentifier():
                self._fail("a group's name must be letters, digits and _")
            self.place = end + 1
        elif not self._take("?:") and self._peek() == "?":
            self._fail("flags and back-references are not supported")
        parts = [Seq(tuple(self._sequence()))]
        while self._take("|"):
            parts.append(Seq(tuple(self._sequence())))
        if self._peek() in ("$", "\\"):
            self._fail("$ may only end the pattern")
        if not self._take(")"):
            self.place = begin
            self._fail("a ( is not closed")
        self.depth -= 1
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _class(self) -> _Set:
        begin = self.place
        self.place += 1
        negated, found, first = self._take("^"), _Set(Chars(())), True
        while first or self._peek() != "]":
            first = False
            if not self._peek():
                self.place = begin
                self._fail("a [ is not closed")
            found |= self._class_item()
        self.place += 1
        found = found.opposite() if negated else found
        if not found.narrow.ranges:
            self._fail("the class has no character")
        return found

    def _class_item(self) -> _Set:
        if self._take("[:"):
            end = self.pattern.find(":]", self.place)
            name = self.pattern[self.place : max(end, 0)]
            if name.removeprefix("^") not in _POSIX:
                self._fail(f"there is no class [:{name}:]: known are {', '.join(_POSIX)}")
            self.place = end + 2
            posix = _Set(_POSIX[name.removeprefix("^")])
            return posix.opposite() if name.startswith("^") else posix
        if self._peek() == "[" or self.pattern.startswith(("&&", "--", "~~"), self.place):
            self._fail("classes within classes are not supported; write \\[ for the sign itself")
        low = self._class_char()
        ranged = self.pattern[self.place : self.place + 1] == "-" and self.pattern[self.place + 1 : self.place + 2] != "]"
        if not ranged:
            return low
        self.place += 1
        high = self._class_char()
        ends = [part.narrow.ranges for part in (low, high)]
        if any(len(part) != 1 or part[0][0] != part[0][1] for part in ends) or ends[1][0] < ends[0][0]:
            self._fail("a range such as a-z goes from one character up to another")
        return _Set(Chars(((ends[0][0][0], ends[1][0][0]),)).without(Chars.of(("\ud800", "\udfff"))))

    def _class_char(self) -> _Set:
        if self._peek() == "\\":
            return self._escape(inside=True)
        if not self._peek():
            self._fail("a [ is not closed")
        self.place += 1
        return _Set(Chars.of(self.pattern[self.place - 1]))

    def _escape(self, *, inside: bool) -> _Set:
        begin = self.place
        self.place += 2
        letter = self.pattern[begin + 1 : begin + 2]
        if letter in _ESCAPES:
            return _Set(Chars.of(_ESCAPES[letter]))
        if letter and letter in "dDwWsS":
            made = _Set(_NARROW[letter.lower()], letter.lower())
            return made if letter.islower() else made.opposite()
        if letter and letter in "xuU":
            return _Set(self._code({"x": 2, "u": 4, "U": 8}[letter]))
        if letter and letter in "pP":
            return _property(self._name()) if letter == "p" else _property(self._name()).opposite()
        if letter == "b" and inside:
            return _Set(Chars.of("\b"))
        if letter == "0" and self._peek() not in tuple(string.digits):
            return _Set(Chars.of("\0"))
        if not letter or letter.isalnum():
            self.place = begin
            why = "back-references are" if letter.isdecimal() else f"\\{letter} is"
            self._fail(f"{why} not supported" if letter else "a \\ stands at the end")
        return _Set(Chars.of(letter))

    def _code(self, digits: int) -> Chars:
        if self._take("{"):
            end = self.pattern.find("}", self.place)
            text, behind = self.pattern[self.place : max(end, 0)], end + 1
        else:
            text, behind = self.pattern[self.place : self.place + digits], self.place + digits
        if not text or not set(text) <= set(string.hexdigits) or int(text, 16) > LAST:
            self._fail("an escape such as \\x41 or \\u{1F600} needs the hexadecimal number of a character")
        self.place = behind
        if not (chars := Chars(((int(text, 16),) * 2,)).without(Chars.of(("\ud800", "\udfff")))).ranges:
            self._fail("half a surrogate pair is no character")
        return chars

    def _name(self) -> str:
        if not self._take("{"):
            self.place += 1
            return self.pattern[self.place - 1 : self.place]
        end = self.pattern.find("}", self.place)
        name, self.place = self.pattern[self.place : max(end, 0)], end + 1
        return name

    def _peek(self) -> str:
        return self.pattern[self.place : self.place + 1]

    def _take(self, sign: str) -> bool:
        if not self.pattern.startswith(sign, self.place):
            return False
        self.place += len(sign)
        return True

    def _fail(self, why: str) -> NoReturn:
        raise GrammarError(f"regex {self.pattern!r}, at place {self.place}: {why}")


@functools.cache
def _categories() -> dict[str, Chars]:
    """The characters of each general category of Unicode."""
    codes: dict[str, list[tuple[int, int]]] = {}
    for code, category in enumerate(map(unicodedata.category, map(chr, range(LAST + 1)))):
        if category != "Cs":
            codes.setdefault(category, []).append((code, code))
    return {category: Chars.join(ranges) for category, ranges in codes.items()}


def _of_categories(beginning: str) -> Chars:
    """The characters of the categories whose names begin so."""
    return Chars.join(part for name, chars in _categories().items() if name.startswith(beginning) for part in chars.ranges)


@functools.cache
def _wide(letter: str) -> Chars:
    """All that a shorthand means in some dialect."""
    if letter == "s":
        return Chars.join((*_of_categories("Z").ranges, *Chars.of(*"\x1c\x1d\x1e\x1f\x85\ufeff").ranges))
    names = ("Nd",) if letter == "d" else ("L", "M", "N", "Pc")
    return Chars.join(part for name in names for part in _of_categories(name).ranges)


def _property(name: str) -> _Set:
    """A general category of Unicode, such as L, Lu or Nd."""
    found = _of_categories(name) if name else Chars(())
    if not found.ranges:
        raise GrammarError(f"regex: \\p{{{name}}} is not supported: give a general category such as L, Lu or Nd")
    return _Set(found)
