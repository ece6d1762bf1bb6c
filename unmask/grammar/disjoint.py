"""What is known of schemas together: that no value satisfies two of them, or that one says all that two say."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

_NEIGHBOURS = (("properties", "additionalProperties"), ("items", "prefixItems"), ("required", "additionalProperties"))


def merged(one: Any, other: Mapping[str, Any], fail: Callable[[str], NoReturn]) -> Any:
    """One schema of what two say, if the keywords of each mean the same beside those of the other; else `fail` with a reason.

    >>> merged({"type": "object"}, {"required": ["a"]}, print)
    {'required': ['a'], 'type': 'object'}
    """
    if isinstance(one, bool):
        return other if one else False
    if not isinstance(one, Mapping):
        fail(f"a schema must be an object, got {one!r}")
    notes = ("title", "description", "default", "examples")
    for key in set(one) & set(other):
        if key not in notes and json.dumps(one[key], sort_keys=True) != json.dumps(other[key], sort_keys=True):
            fail(f"{key} is said twice, which is not supported")
    for first, second in _NEIGHBOURS:
        for left, right in ((one, other), (other, one)):
            apart = first in left and first not in right and second in right and second not in left
            if apart and not (first == "required" and "properties" in right):
                fail(f"{first} and {second} in different schemas are not supported")
    return {**other, **one}


def disjoint(one: Any, other: Any) -> bool:
    """Whether surely no value satisfies both: by their types, their constants, or those of a property that both require.

    >>> disjoint({"type": "string"}, {"type": ["null", "integer"]}), disjoint({"type": "integer"}, {"type": "number"})
    (True, False)
    """
    if one is False or other is False:
        return True
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return False
    types = [_types(part) for part in (one, other)]
    values = [_values(part) for part in (one, other)]
    if all(types) and not types[0] & types[1]:
        return True
    if all(part is not None for part in values) and not set(values[0] or ()) & set(values[1] or ()):
        return True
    if types != [{"object"}, {"object"}]:
        return False
    shared = [name for name in one.get("required", ()) if name in other.get("required", ())]
    fields = [part.get("properties", {}) for part in (one, other)]
    if any(name in fields[0] and name in fields[1] and disjoint(fields[0][name], fields[1][name]) for name in shared):
        return True
    return any(
        right.get("additionalProperties") is False and any(name not in right.get("properties", {}) for name in left)
        for left, right in ((one.get("required", ()), other), (other.get("required", ()), one))
    )


def _types(source: Mapping[str, Any]) -> set[str]:
    """The types that a schema names, whole numbers being numbers; none: any."""
    names = source.get("type", [])
    return {"number" if name == "integer" else name for name in ([names] if isinstance(names, str) else names)}


def _values(source: Mapping[str, Any]) -> list[str] | None:
    """The values that it lists, as texts; None: it lists none. Numbers that are equal are one text."""
    listed = [source["const"]] if "const" in source else source.get("enum")
    if not isinstance(listed, list):
        return None
    return [
        json.dumps(float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value, sort_keys=True)
        for value in listed
    ]
