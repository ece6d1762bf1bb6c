"""Settings beside their bounds: frozen dataclasses whose fields say what they may hold and what a calibration may try.

    @dataclass(frozen=True, kw_only=True)
    class Suffix(Part):
        where: ClassVar[str] = "suffix"
        window: int = whole_field(0, default=32, search=(0, 128))

It knows no rule and no method.
"""

import functools
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from unmask.errors import ConfigError, unknown

# Numbers that a batch of rows may each have their own of, as columns of int64, or in the precision of confidences.
Kind = Literal["whole", "real"]
# What None means in a setting: nothing, so that it is an error; not given, so that `plain` leaves it out; or a value.
NoneIs = Literal["refused", "unset", "value"]
# The range that a calibration tries, or in words why it leaves the setting alone.
Search = tuple[float, float] | str


# --- one value --------------------------------------------------------------------------------------------------------


def whole(name: str, value: Any, least: int, *, required: bool = False) -> None:
    """Raises ConfigError unless `value` is a whole number of at least `least`, or None where that is allowed."""
    if value is None and not required:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if value >= 2**63:  # on the device all whole numbers are int64
        raise ConfigError(f"{name} must be less than 2**63, got {value}")


def number(name: str, value: Any, least: float, most: float) -> None:
    """Raises ConfigError unless `value` is a number from `least` to `most`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f"{name} must be a number from {least:g} to {most:g}, got {value!r}")


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raises ConfigError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


# --- bounds -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a setting may hold; `none` says what None means there."""

    none: NoneIs = "refused"

    def check(self, name: str, value: Any) -> None:
        """Raises ConfigError that names the setting and what would be right."""


@dataclass(frozen=True, kw_only=True)
class Number(Bound):
    """A number from `least` to `most`, both included."""

    least: float
    most: float
    search: Search

    def check(self, name: str, value: Any) -> None:
        number(name, value, self.least, self.most)


@dataclass(frozen=True, kw_only=True)
class Whole(Bound):
    """A whole number of at least `least`."""

    least: int
    search: Search

    def check(self, name: str, value: Any) -> None:
        whole(name, value, self.least, required=True)


@dataclass(frozen=True, kw_only=True)
class Choice(Bound):
    """One of a few words."""

    allowed: tuple[str, ...]

    def check(self, name: str, value: Any) -> None:
        one_of(name, value, self.allowed)


@dataclass(frozen=True, kw_only=True)
class Flag(Bound):
    """True or false."""

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be true or false, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Ids(Bound):
    """A token id, or several."""

    def check(self, name: str, value: Any) -> None:
        if isinstance(value, tuple | list) and not value:
            raise ConfigError(f"{name} must be a token id or several, got none")
        for one in value if isinstance(value, tuple | list) else (value,):
            whole(name, one, 0, required=True)


@dataclass(frozen=True, kw_only=True)
class Text(Bound):
    """A short text on one line."""

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, str):
            raise ConfigError(f"{name} must be a text, got {value!r:.60}")
        if len(value) > 100 or not value.isprintable():
            raise ConfigError(f"{name} must be a text of at most 100 letters on one line, got {value!r:.60} ({len(value)})")


@dataclass(frozen=True, kw_only=True)
class Child(Bound):
    """A part of its own."""

    kind: "type[Part]"

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, self.kind):
            raise ConfigError(f"{name} must be a {self.kind.__name__} or a mapping of its settings, got {value!r}")


def number_field(least: float, most: float, *, search: Search, default: Any = MISSING, none: NoneIs = "refused") -> Any:
    """A field that holds a number from `least` to `most`."""
    return _field(Number(least=least, most=most, search=search, none=none), default)


def whole_field(least: int, *, search: Search, default: Any = MISSING, none: NoneIs = "refused") -> Any:
    """A field that holds a whole number of at least `least`."""
    return _field(Whole(least=least, search=search, none=none), default)


def choice_field(*allowed: str, default: Any = MISSING, none: NoneIs = "refused") -> Any:
    """A field that holds one of these words."""
    return _field(Choice(allowed=allowed, none=none), default)


def flag_field(*, default: bool) -> Any:
    """A field that is true or false."""
    return _field(Flag(), default)


def ids_field(*, default: Any = MISSING, none: NoneIs = "refused") -> Any:
    """A field that holds a token id, or a tuple of some."""
    return _field(Ids(none=none), default)


def text_field(*, default: Any = MISSING) -> Any:
    """A field that holds a short text on one line."""
    return _field(Text(), default)


def part_field(kind: "type[Part]", *, default: Any = None) -> Any:
    """A field that holds a part; None, where that is the default, turns the part off."""
    return _field(Child(kind=kind, none="unset" if default is None else "refused"), default)


def filled_field(default: Any, *, compare: bool = True) -> Any:
    """A field that is no setting: code fills it in, no user does."""
    return field(default=default, repr=False, compare=compare, metadata={"bound": None})


def _field(bound: Bound, default: Any) -> Any:
    return field(default=default, metadata={"bound": bound})


# --- parts ------------------------------------------------------------------------------------------------------------


class Range(NamedTuple):
    """From `low` to `high`, both included; `step` None: any number of three decimals, else whole ones that far apart."""

    low: float
    high: float
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """Settings that belong together, each checked against its bound; `where` is how messages call the part."""

    where: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, bound in bounds(type(self)).items():
            value = getattr(self, name)
            if value is not None or bound.none == "refused":
                bound.check(f"{self.where}.{name}" if self.where else name, value)

    def searched(self, answer_length: int, block_length: int) -> dict[str, tuple[float, Range]]:
        """The numbers that a calibration may move: what each is now, and a range wide enough for that."""
        del answer_length, block_length  # only counts of steps depend on them
        found = {}
        for name, (low, high, step) in ranges(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                found[name] = value, Range(min(low, value), max(high, value), step)
        return found


def bounds(kind: type[Any]) -> Mapping[str, Bound]:
    """The settings of a part with their bounds. Raises TypeError on a field that has none: a gap in the code."""
    return _bounds(kind)  # type: ignore[arg-type]  # mypy takes no class of dataclasses for hashable


@functools.cache
def _bounds(kind: type[Any]) -> Mapping[str, Bound]:
    found = {}
    for own in fields(kind):
        if "bound" not in own.metadata:
            raise TypeError(f"{kind.__name__}.{own.name} has no bound: declare it with number_field, whole_field or the like")
        if own.metadata["bound"] is not None:
            found[own.name] = own.metadata["bound"]
    return found


def ranges(kind: type[Part]) -> dict[str, Range]:
    """The settings of a part that a calibration may move."""
    found = {}
    for name, bound in bounds(kind).items():
        if isinstance(bound, Number | Whole) and not isinstance(bound.search, str):
            found[name] = Range(*bound.search, 1 if isinstance(bound, Whole) else None)
    return found


def filled(kind: type[Part]) -> set[str]:
    """The fields of a part that are no settings."""
    return {own.name for own in fields(kind)} - set(bounds(kind))


def plain(part: Part) -> dict[str, Any]:
    """Plain data that `from_mapping` reads back; what is not given is left out."""
    found = {}
    for name, bound in bounds(type(part)).items():
        value = getattr(part, name)
        if value is not None or bound.none != "unset":
            found[name] = plain(value) if isinstance(value, Part) else value
    return found


T = TypeVar("T")


def from_mapping(kind: type[T], data: Any, where: str) -> T:
    """Build a dataclass from a mapping, strictly: no unknown name, none missing. Raises ConfigError that names it.

    A value that is a mapping becomes the part that its field declares.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {data!r}")
    known = {own.name: own for own in fields(kind) if own.metadata.get("bound", True)}  # type: ignore[arg-type]
    for name in data:
        if name not in known:
            raise unknown(f"{where} setting", str(name), known)
    for name, own in known.items():
        if own.default is MISSING and own.default_factory is MISSING and name not in data:
            raise ConfigError(f"{where}: the setting '{name}' is missing")
    return kind(**{name: _value(known[name], value) for name, value in data.items()})


def _value(own: "Field[Any]", value: Any) -> Any:
    bound = own.metadata.get("bound")
    if isinstance(bound, Child) and value is not None and not isinstance(value, Part):
        return from_mapping(bound.kind, value, own.name)
    return value
