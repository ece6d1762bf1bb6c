"""JSON schemas as grammars: every text validates, by a library of its own; what cannot be promised is refused by name."""

import json
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from tests.grammar.toys import sample
from unmask.errors import GrammarError
from unmask.grammar.dfa import compiled
from unmask.grammar.schema import any_object, schema

Schema = dict[str, Any]
SCALARS: st.SearchStrategy[Schema] = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "number"}, {"type": "integer"}, {"type": "string"}]),
    st.builds(
        lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size}, st.integers(-120, 99), st.integers(0, 250)
    ),
    st.builds(
        lambda low, size: {"type": "number", "minimum": low, "maximum": low + size}, st.integers(-9, 9), st.integers(1, 30)
    ),
    st.builds(lambda low: {"type": "integer", "exclusiveMinimum": low, "multipleOf": 10}, st.integers(-99, 99)),
    st.builds(
        lambda low, size: {"type": "string", "minLength": low, "maxLength": low + size}, st.integers(0, 3), st.integers(0, 4)
    ),
    st.sampled_from(
        [{"type": "string", "pattern": pattern} for pattern in ("^a+$", "b", '^["\\\\\n]+x', "^[^a]{2}$", r"\d-\w")]
    ),
    st.sampled_from([{"type": "string", "format": form} for form in ("date", "time", "date-time", "email", "uuid", "ipv4")]),
    st.builds(lambda values: {"enum": values}, st.lists(st.one_of(st.text(max_size=4), st.integers(), st.none()), min_size=1)),
    st.builds(lambda value: {"const": value}, st.one_of(st.text(max_size=4), st.lists(st.booleans(), max_size=2))),
)


def holding(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Objects, arrays and choices of other schemas."""
    names = st.lists(st.sampled_from(["a", "b", "a name", 'q"uote', "ä"]), unique=True, max_size=4)

    def fields(keys: list[str], parts: list[Schema], needed: list[bool], closed: bool) -> Schema:
        required = [key for key, need in zip(keys, needed, strict=False) if need]
        made: Schema = {"type": "object", "properties": dict(zip(keys, parts, strict=False)), "required": required}
        return {**made, "additionalProperties": False} if closed else made

    return st.one_of(
        st.builds(
            fields,
            names,
            st.lists(inner, min_size=4, max_size=4),
            st.lists(st.booleans(), min_size=4, max_size=4),
            st.booleans(),
        ),
        st.builds(
            lambda part, low, size: {"type": "array", "items": part, "minItems": low, "maxItems": low + size},
            inner,
            st.integers(0, 2),
            st.integers(0, 2),
        ),
        st.builds(
            lambda parts, others: {"type": "array", "prefixItems": parts, "items": others},
            st.lists(inner, min_size=1, max_size=2),
            inner,
        ),
        st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"type": "object", "additionalProperties": part}, inner),
        st.builds(lambda part: {"$defs": {"one": part}, "allOf": [{"$ref": "#/$defs/one"}]}, SCALARS),
    )


SCHEMAS = holding(st.one_of(SCALARS, holding(SCALARS)))


@seed(18)
@settings(max_examples=60)
@given(SCHEMAS, st.integers(0, 2**32))
def test_every_text_validates(source: Schema, number: int) -> None:
    if "$defs" in json.dumps(source) and "$defs" not in source:
        return  # references are to the root
    made, draw = compiled(schema(source)), random.Random(number)
    for _ in range(8):
        text = sample(made, draw)
        jsonschema.validate(json.loads(text), source, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize(
    ("source", "documents"),
    [
        ({"type": "object"}, ['{"a": [1, {"b": null}], "é": "\\n"}', "{}"]),
        ({"properties": {"a": {}, "b": {"type": "number"}}, "required": ["b"]}, ['{"b":-1.5}', '{"a":"x","b":0}']),
        ({"type": "array", "items": {"enum": ["x", 1, None]}}, ["[]", '["x", 1,null]']),
        (
            {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": False},
            ["[]", "[null]", "[null,true]"],
        ),
        ({"type": ["string", "null"]}, ['"a\\"b"', "null"]),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, ['"a"', "7"]),
    ],
)
def test_valid_documents_are_texts_of_it(source: Schema, documents: list[str]) -> None:
    made = compiled(schema(source))
    assert [document for document in documents if not made.accepts(document.encode())] == []


def test_a_reference_to_itself_is_written_out_as_far_as_the_depth() -> None:
    tree = {
        "$defs": {
            "t": {
                "properties": {"v": {"type": "null"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/t"}}},
                "required": ["v"],
                "type": "object",
            }
        },
        "$ref": "#/$defs/t",
    }
    made = compiled(schema(tree, depth=2))
    assert made.accepts(b'{"v":null,"kids":[{"v":null}]}')
    assert not made.accepts(b'{"v":null,"kids":[{"v":null,"kids":[{"v":null}]}]}')
    endless = {
        "$defs": {"t": {"properties": {"t": {"$ref": "#/$defs/t"}}, "required": ["t"], "type": "object"}},
        "$ref": "#/$defs/t",
    }
    with pytest.raises(GrammarError, match="no value satisfies"):
        schema(endless)


def test_nesting_without_bound_ends_at_the_depth() -> None:
    made = compiled(any_object(2))
    assert made.accepts(b'{"a":[1,"x"]}')
    assert not made.accepts(b'{"a":[[1]]}')


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            {"properties": {"a": {"properties": {"b": {"type": "integer", "multipleOf": 7}}}}},
            "at $.a.b: multipleOf 7 is not supported",
        ),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not is not supported"),
        ({"if": {}, "then": {}}, "if is not supported"),
        ({"patternProperties": {"a": {}}}, "patternProperties is not supported"),
        ({"type": "strin"}, "type must be one or more of"),
        ({"type": "string", "format": "uri"}, "format 'uri' is not supported"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "one at a time"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf is supported where"),
        (
            {
                "oneOf": [
                    {"properties": {"a": {"const": 1}}, "required": ["a"], "type": "object"},
                    {"properties": {"b": {}}, "type": "object"},
                ]
            },
            "oneOf",
        ),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "type is said twice"),
        ({"anyOf": [{"properties": {"a": {}}}], "additionalProperties": False}, "in different schemas"),
        ({"$ref": "#/$defs/a"}, "leads nowhere"),
        ({"$ref": "http://x"}, "must begin with #/"),
        ({"enum": []}, "at least one value"),
        ({"type": "integer", "minimum": "1"}, "minimum must be a number"),
        ({"type": "string", "minLength": -1}, "minLength must be a whole number"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "no value satisfies"),
        ({"properties": {}, "required": ["a"], "additionalProperties": False}, "no value satisfies"),
        ({"type": "object", "minProperties": 3}, "minProperties without properties"),
        ({"properties": [1]}, "properties must be an object"),
        ({"type": "string", "nonsense": 1}, "nonsense is not supported"),
    ],
)
def test_what_cannot_be_promised_is_refused_by_name_and_path(source: Schema, words: str) -> None:
    with pytest.raises(GrammarError) as caught:
        schema(source)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
