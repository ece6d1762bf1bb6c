r"""What was asked for, as a value, and the grammar that a model's answer is held to.

    grammar(regex(r"The answer is [0-9]+\."), tokenizer, ends=(1,), mask_id=2, vocabulary=509, limit=64)

Making one takes from milliseconds to seconds, so the last ones of every tokenizer are kept.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unmask.decode.automaton import Automaton
from unmask.errors import GrammarError
from unmask.grammar.constraint import Grammar
from unmask.grammar.dfa import compiled
from unmask.grammar.expression import ANY, Chars, Expression, Repeat, either, maybe, seq
from unmask.grammar.lift import lifted
from unmask.grammar.regex import whole
from unmask.grammar.schema import DEPTH, MOST_DEPTH, schema
from unmask.grammar.text import TextMap, text_map

_KEPT = 64  # automata
_NO_CALL = maybe(seq(ANY.without(Chars.of("{")), Repeat(ANY)))


@dataclass(frozen=True, kw_only=True)
class Language:
    """The texts that an answer may be.

    Attributes:
        kind: how `source` says it.
        source: the pattern, or JSON: a schema, a list of texts, or the schemas of tools by their names.
        depth: how deep a schema may nest where it has no bound.
        free: whether a text that is no call of a tool may stand in its place.
    """

    kind: Literal["regex", "JSON schema", "choice", "tools"]
    source: str
    depth: int = DEPTH
    free: bool = False

    def expression(self) -> Expression:
        """Raises GrammarError where it is broken or not supported."""
        match self.kind:
            case "regex":
                return whole(self.source)
            case "choice":
                return either(*json.loads(self.source))
            case "JSON schema":
                return schema(json.loads(self.source), depth=self.depth)
            case "tools":
                tools = json.loads(self.source)
                calls = [_call(name, schema(arguments, depth=self.depth)) for name, arguments in tools.items()]
                return either(*calls, *([_NO_CALL] if self.free else []))


def regex(pattern: str) -> Language:
    """The texts that a pattern matches from beginning to end (grammar/regex.py). Raises GrammarError for half a letter.

    >>> regex("[0-9]+").kind
    'regex'
    """
    if not isinstance(pattern, str):
        raise GrammarError(f"a regex must be a string, got {pattern!r}")
    return Language(kind="regex", source=_text(pattern))


def json_schema(source: Mapping[str, Any] | bool | str, *, depth: int = DEPTH) -> Language:
    """JSON that a schema validates (grammar/schema.py); the schema as an object, or as its text. Raises GrammarError.

    >>> json_schema({"type": "integer"}).source
    '{"type": "integer"}'
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= MOST_DEPTH:
        raise GrammarError(f"depth must be a whole number from 1 to {MOST_DEPTH}, got {depth!r}")
    try:
        made = json.loads(source) if isinstance(source, str) else source
        text = json.dumps(made, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise GrammarError(f"the JSON schema is no JSON: {error}") from None
    if not isinstance(made, Mapping | bool):
        raise GrammarError(f"a JSON schema must be an object, got {text[:80]}")
    return Language(kind="JSON schema", source=_text(text), depth=depth)


def json_object(*, depth: int = DEPTH) -> Language:
    """Any object, itself and what it holds nested up to `depth` deep. Raises GrammarError for a depth above 6."""
    return json_schema({"type": "object"}, depth=depth)


def choice(texts: Sequence[str]) -> Language:
    """One of at least two texts, none of them empty. Raises GrammarError.

    >>> choice(["yes", "no"]).source
    '["yes", "no"]'
    """
    listed = isinstance(texts, Sequence) and not isinstance(texts, str)
    if not listed or len(set(map(repr, texts))) < 2 or not all(isinstance(text, str) and text for text in texts):
        raise GrammarError("choice must be a list of at least two strings that differ, none of them empty")
    return Language(kind="choice", source=_text(json.dumps(list(texts), ensure_ascii=False)))


def tools(schemas: Mapping[str, Mapping[str, Any]], *, free: bool, depth: int = DEPTH) -> Language:
    """A call of one of these tools, `{"name": "...", "arguments": {...}}`, or with `free` a text that does not begin with `{`.

    `schemas` are those of the arguments, by the tools' names. Raises GrammarError.
    """
    source = json_schema({"$defs": dict(schemas)}, depth=depth).source
    return Language(kind="tools", source=json.dumps(json.loads(source)["$defs"], ensure_ascii=False), depth=depth, free=free)


def grammar(language: Language, tokenizer: Any, *, ends: Sequence[int], mask_id: int, vocabulary: int, limit: int) -> Grammar:
    """The grammar of an answer of `limit` tokens. `ends` are the ids that end one.

    Raises GrammarError where the language is broken, too large, beyond the tokenizer, or has no text of so few tokens.
    """
    made = _automaton(language, text_map(tokenizer), tuple(ends), mask_id, vocabulary)
    if made.least() > limit:
        raise GrammarError(
            f"the {language.kind} needs at least {made.least()} tokens, and the answer may have {limit}: "
            "raise max_new_tokens (max_tokens of a server)"
        )
    return Grammar(automaton=made, limit=limit)


@functools.lru_cache(maxsize=_KEPT)
def _automaton(language: Language, text: TextMap, ends: tuple[int, ...], mask_id: int, vocabulary: int) -> Automaton:
    try:
        return lifted(compiled(language.expression()), text, ends=ends, mask_id=mask_id, vocabulary=vocabulary)
    except RecursionError:
        raise GrammarError(f"the {language.kind} nests too deep") from None


def _call(name: str, arguments: Expression) -> Expression:
    return seq('{"name": ', json.dumps(name, ensure_ascii=False), ', "arguments": ', arguments, "}")


def _text(text: str) -> str:
    """The text. Raises GrammarError for half of a surrogate pair, which no text of an answer can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise GrammarError(f"the grammar holds half a letter, {text[error.start]!r}") from None
    return text
