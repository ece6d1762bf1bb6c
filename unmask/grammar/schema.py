"""A JSON schema as an expression: every text of it is JSON that validates, though not every valid value is a text of it.

What cannot be promised is refused by name and path. Choices that keep the language small: properties come in the schema's
order, properties that the schema does not name are not written, white space is at most one space behind `,` and `:`, numbers
have at most 15 digits before and behind the point unless bounds say otherwise, and nesting that has no bound is cut at `depth`.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, NoReturn

from unmask.errors import GrammarError
from unmask.grammar.disjoint import disjoint, merged
from unmask.grammar.expression import NOTHING, Expression, Joined, Listed, Repeat, either, maybe, seq
from unmask.grammar.json_values import FORMATS, any_string, integer, number, of_format, string
from unmask.grammar.regex import search

DEPTH, MOST_DEPTH = 4, 6
_NODES = 20_000
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_NOTES = {  # what says nothing of a value
    *("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "format"),
    *("$schema", "$id", "$comment", "$defs", "definitions", "$anchor", "contentMediaType", "contentEncoding"),
}
_OWN = {  # what each type understands
    "object": {"properties", "required", "additionalProperties", "minProperties", "maxProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "boolean": set(),
    "null": set(),
}
_KNOWN = frozenset.union(*map(frozenset, _OWN.values()))
_COMMA, _COLON = seq(",", maybe(" ")), seq(":", maybe(" "))


def schema(source: Mapping[str, Any] | bool, *, depth: int = DEPTH) -> Expression:
    """The texts of a schema. Raises GrammarError, which names the path and the keyword that cannot be promised.

    >>> from unmask.grammar.dfa import compiled
    >>> made = compiled(schema({"properties": {"a": {"type": "integer"}}, "required": ["a"], "type": "object"}))
    >>> made.accepts(b'{"a": 12}'), made.accepts(b'{"a": "12"}')
    (True, False)
    """
    if not isinstance(source, Mapping | bool):
        raise GrammarError(f"a JSON schema must be an object, got {source!r}")
    made = _Schema(source, depth).value(source, "$", depth)
    if made == NOTHING:
        raise GrammarError("no value satisfies the JSON schema, or none that nests as little as it must here")
    return made


def any_object(depth: int = DEPTH) -> Expression:
    """Any object whose values nest up to `depth` deep, itself included."""
    return schema({"type": "object"}, depth=depth)


@dataclass
class _Schema:
    """The whole schema, for its references; `depth` is how deep what has no bound may nest."""

    root: Mapping[str, Any] | bool
    depth: int
    nodes: int = 0
    inside: dict[str, int] = field(default_factory=dict)  # how often each reference is open

    def value(self, source: Any, path: str, depth: int) -> Expression:
        """The values of one schema at `path`; `depth` is left for what has no bound."""
        self.nodes += 1
        if self.nodes > _NODES:
            raise GrammarError(
                f"the JSON schema is too large: it has more than {_NODES:,} parts with its references written out"
            )
        if source is False:
            return NOTHING
        if source is True:
            source = {}
        if not isinstance(source, Mapping):
            _fail(path, f"a schema must be an object, got {source!r}")
        source = {key: part for key, part in source.items() if not key.startswith("x-")}
        for name, branches in (("$ref", self._reference), ("allOf", self._all), ("anyOf", self._any), ("oneOf", self._one)):
            if name in source:
                return branches(source, path, depth)
        if "const" in source or "enum" in source:
            return self._listed(source, path)
        return either(*(self._of_type(name, source, path, depth) for name in self._types(source, path)))

    def _types(self, source: Mapping[str, Any], path: str) -> Sequence[str]:
        """The types that a value may have; without `type` those that the keywords speak of, or all."""
        unknown = sorted(set(source) - _NOTES - _KNOWN - {"type"})
        if unknown:
            _fail(path, f"{unknown[0]} is not supported")
        names = source.get("type")
        if names is None:
            spoken = [name for name in _TYPES if set(source) & _OWN[name] and name != "integer"]
            return spoken or [name for name in _TYPES if name != "integer"]
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, Sequence) or not names or not set(names) <= set(_TYPES):
            _fail(path, f"type must be one or more of {', '.join(_TYPES)}, got {source['type']!r}")
        return [name for name in dict.fromkeys(names) if name != "integer" or "number" not in names]

    def _of_type(self, name: str, source: Mapping[str, Any], path: str, depth: int) -> Expression:
        match name:
            case "object":
                return self._object(source, path, depth)
            case "array":
                return self._array(source, path, depth)
            case "string":
                return _string(source, path)
            case "integer" | "number":
                return _number(source, path, whole=name == "integer")
            case "boolean":
                return either("true", "false")
        return seq("null")

    # --- choices

    def _reference(self, source: Mapping[str, Any], path: str, depth: int) -> Expression:
        name = source["$ref"]
        found: Any = self.root
        if not isinstance(name, str) or not (name == "#" or name.startswith("#/")):
            _fail(path, f"$ref {name!r} is not supported: it must begin with #/")
        for part in name[2:].split("/") if name != "#" else ():
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and part in found:
                found = found[part]
            else:
                _fail(path, f"$ref {name!r} leads nowhere")
        rest = {key: part for key, part in source.items() if key != "$ref" and key not in _NOTES - {"format"}}
        if self.inside.get(name, 0) >= self.depth:
            return NOTHING  # deeper than that no text is written
        self.inside[name] = self.inside.get(name, 0) + 1
        made = self.value(merged(found, rest, partial(_fail, path)) if rest else found, path, depth)
        self.inside[name] -= 1
        return made

    def _all(self, source: Mapping[str, Any], path: str, depth: int) -> Expression:
        joined: Any = {key: part for key, part in source.items() if key != "allOf"}
        for part in _schemas(source, "allOf", path):
            joined = merged(part, joined, partial(_fail, f"{path}.allOf"))
        return self.value(joined, path, depth)

    def _any(self, source: Mapping[str, Any], path: str, depth: int) -> Expression:
        return either(*self._branches(source, "anyOf", path, depth))

    def _one(self, source: Mapping[str, Any], path: str, depth: int) -> Expression:
        parts = [self._resolved(part) for part in _schemas(source, "oneOf", path)]
        if not all(disjoint(one, other) for place, one in enumerate(parts) for other in parts[:place]):
            _fail(path, "oneOf is supported where types or a required constant tell its branches apart: use anyOf")
        return either(*self._branches(source, "oneOf", path, depth))

    def _branches(self, source: Mapping[str, Any], name: str, path: str, depth: int) -> Iterator[Expression]:
        rest = {key: part for key, part in source.items() if key != name and key not in _NOTES - {"format"}}
        for place, part in enumerate(_schemas(source, name, path)):
            where = f"{path}.{name}[{place}]"
            yield self.value(merged(part, rest, partial(_fail, where)), where, depth)

    def _resolved(self, source: Any) -> Any:
        """A schema, or what it refers to, if that is all that it says."""
        for _ in range(20):
            if not isinstance(source, Mapping) or not str(source.get("$ref", "")).startswith("#/") or len(source) > 1:
                break
            found: Any = self.root
            for part in source["$ref"][2:].split("/"):
                found = found.get(part) if isinstance(found, Mapping) else None
            source = found
        return source

    def _listed(self, source: Mapping[str, Any], path: str) -> Expression:
        """`const` and `enum`, of which `type` may leave some out."""
        beside = sorted(set(source) - _NOTES - {"const", "enum", "type"})
        if beside:
            _fail(path, f"{beside[0]} beside {'enum' if 'enum' in source else 'const'} is not supported")
        values = source.get("enum", [source.get("const")])
        if not isinstance(values, list) or not values:
            _fail(path, "enum must be a list of at least one value")
        if "enum" in source and "const" in source:
            values = [value for value in values if json.dumps(value) == json.dumps(source["const"])]
        if "type" in source:
            values = [value for value in values if any(_is(value, name) for name in self._types(_only_type(source), path))]
        try:
            return either(*(json.dumps(value, ensure_ascii=False, allow_nan=False) for value in values))
        except (TypeError, ValueError):
            _fail(path, f"{'enum' if 'enum' in source else 'const'} holds what is no JSON value")

    # --- what holds others

    def _object(self, source: Mapping[str, Any], path: str, depth: int) -> Expression:
        properties, required = source.get("properties", {}), source.get("required", [])
        others = source.get("additionalProperties", True)
        if not isinstance(properties, Mapping):
            _fail(path, "properties must be an object of schemas")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            _fail(path, "required must be a list of names")
        missing = {name: others for name in required if name not in properties}
        named = {**properties, **missing}
        least, most = _count(source, "minProperties", path, 0), _count(source, "maxProperties", path, None)
        if not named:
            if least or most is not None:
                _fail(path, f"{'minProperties' if least else 'maxProperties'} without properties is not supported")
            return seq("{}") if "properties" in source else self._map(others, path, depth)
        if (least or 0) > len(required) or (most is not None and most < len(named)):
            _fail(path, f"{'minProperties' if (least or 0) > len(required) else 'maxProperties'} is not supported")
        items = []
        for name, part in named.items():
            inner = self.value(part, f"{path}.{name}", depth - 1 if name in missing else depth)
            if inner == NOTHING and name in required:
                return NOTHING
            if inner != NOTHING:
                items.append((seq(json.dumps(name, ensure_ascii=False), _COLON, inner), name in required))
        return seq("{", Listed(tuple(items), _COMMA), "}")

    def _map(self, values: Any, path: str, depth: int) -> Expression:
        """An object of any keys."""
        inner = self._unnamed(values is True, values, f"{path}.*", depth)
        return seq("{", _several(seq(any_string(), _COLON, inner), 0, None), "}")

    def _unnamed(self, free: bool, source: Any, path: str, depth: int) -> Expression:
        """Items or properties; where nothing is said of them they nest one level less deep."""
        return self.value(source, path, depth - 1 if free else depth) if depth > 0 or not free else NOTHING

    def _array(self, source: Mapping[str, Any], path: str, depth: int) -> Expression:
        if source.get("uniqueItems"):
            _fail(path, "uniqueItems is not supported")
        first, others = source.get("prefixItems", []), source.get("items", True)
        if not isinstance(first, list) or isinstance(others, list):
            _fail(path, "prefixItems must be a list of schemas, and items one schema")
        least, most = _count(source, "minItems", path, 0) or 0, _count(source, "maxItems", path, None)
        inner = self._unnamed("items" not in source, others, f"{path}[]", depth)
        parts = [self.value(part, f"{path}[{place}]", depth) for place, part in enumerate(first)]
        if NOTHING in parts:
            parts, inner = parts[: parts.index(NOTHING)], NOTHING
        if inner == NOTHING:
            most = len(parts) if most is None else min(most, len(parts))
        if most is not None and least > most:
            return NOTHING
        return seq("[", _tuple(parts[:most], inner, least, most), "]")


def _tuple(first: Sequence[Expression], others: Expression, least: int, most: int | None) -> Expression:
    """Items of which each of the first has its own schema; those behind the first `least` may be absent."""
    if not first:
        return _several(others, least, most)
    rest: Expression = seq()
    if others != NOTHING and most != len(first):
        rest = Repeat(seq(_COMMA, others), max(0, least - len(first)), None if most is None else most - len(first))
    for place in reversed(range(1, len(first))):
        rest = seq(_COMMA, first[place], rest)
        rest = rest if place < least else maybe(rest)
    rest = seq(first[0], rest)
    return rest if least > 0 else maybe(rest)


def _several(item: Expression, least: int, most: int | None) -> Expression:
    """So many items with commas between them."""
    if most == 0 or item == NOTHING:
        return seq() if least == 0 else NOTHING
    if least <= 1 and most is None:
        return maybe(Joined(item, _COMMA)) if least == 0 else Joined(item, _COMMA)
    some = seq(item, Repeat(seq(_COMMA, item), max(0, least - 1), None if most is None else most - 1))
    return some if least > 0 else maybe(some)


def _string(source: Mapping[str, Any], path: str) -> Expression:
    least, most = _count(source, "minLength", path, 0) or 0, _count(source, "maxLength", path, None)
    form, pattern = source.get("format"), source.get("pattern")
    if form is not None and form not in FORMATS:
        _fail(path, f"format {form!r} is not supported: known are {', '.join(FORMATS)}")
    if sum((form is not None, pattern is not None, bool(least) or most is not None)) > 1:
        _fail(path, "pattern, format and lengths are supported one at a time")
    if form is not None:
        return of_format(form)
    if pattern is not None:
        if not isinstance(pattern, str):
            _fail(path, f"pattern must be a string, got {pattern!r}")
        try:
            return string(search(pattern))
        except GrammarError as error:
            _fail(path, f"pattern: {error}")
    if most is not None and least > most:
        return NOTHING
    return any_string(least, most)


def _number(source: Mapping[str, Any], path: str, *, whole: bool) -> Expression:
    bounds: dict[str, Fraction] = {}
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
        given = source.get(name)
        if given is None:
            continue
        if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
            _fail(path, f"{name} must be a number, got {given!r}")
        bounds[name] = Fraction(given)
    step = bounds.pop("multipleOf", None)
    lows = [bounds[name] for name in ("minimum",) if name in bounds]
    highs = [bounds[name] for name in ("maximum",) if name in bounds]
    # Behind an exclusive bound the next whole number is the nearest that is offered.
    lows += [Fraction(math.floor(bounds["exclusiveMinimum"]) + 1)] if "exclusiveMinimum" in bounds else []
    highs += [Fraction(math.ceil(bounds["exclusiveMaximum"]) - 1)] if "exclusiveMaximum" in bounds else []
    low, high = max(lows, default=None), min(highs, default=None)
    if step is None and not whole:
        return number(low, high)
    zeros = len(str(step)) - 1 if step is not None else 0
    if step is not None and step != 10**zeros:
        _fail(path, f"multipleOf {source['multipleOf']} is not supported: it may be 1, 10, 100 and so on")
    least = None if low is None else math.ceil(low)
    return integer(least, None if high is None else math.floor(high), zeros=zeros)


def _count(source: Mapping[str, Any], name: str, path: str, default: int | None) -> int | None:
    given = source.get(name, default)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        _fail(path, f"{name} must be a whole number from 0, got {given!r}")
    if given > 10_000:
        _fail(path, f"{name} may be at most 10,000")
    return given


def _schemas(source: Mapping[str, Any], name: str, path: str) -> list[Any]:
    parts = source[name]
    if not isinstance(parts, list) or not parts:
        _fail(path, f"{name} must be a list of at least one schema")
    return parts


def _only_type(source: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": source["type"]}


def _is(value: Any, name: str) -> bool:
    """Whether a value of JSON is of a type."""
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    if name in kinds:
        return isinstance(value, kinds[name])
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and (name == "number" or float(value).is_integer())


def _fail(path: str, why: str) -> NoReturn:
    raise GrammarError(f"JSON schema, at {path}: {why}")
