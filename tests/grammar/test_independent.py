"""Our automata against another library's matcher, llguidance, which is no dependency: `pip install llguidance` runs these.

A regular expression must allow the same tokens everywhere; of a JSON schema our language is smaller (keys in one order, one
way to put spaces), so all that ours allows must be allowed there.
"""

import json
import random
from typing import Any

import pytest

from tests.engine.test_grammar_draws import document, pattern
from tests.grammar.toys import PIECES
from unmask.decode.automaton import Automaton
from unmask.grammar.dfa import compiled
from unmask.grammar.expression import Expression
from unmask.grammar.lift import lifted
from unmask.grammar.regex import whole
from unmask.grammar.schema import schema
from unmask.grammar.text import TextMap

llguidance = pytest.importorskip("llguidance", reason="llguidance is not installed: pip install llguidance")
STEPS = 40  # tokens of a walk
DELETE = 0x7F  # JSON has it in strings (RFC 8259, section 7), llguidance wants it escaped
# Every byte is a token, so that no library can be led into a text that no token goes on with.
TOKENS = (*(bytes([byte]) for byte in range(256)), *(piece.encode() for piece in PIECES if len(piece) > 1))
EOS, MASK = len(TOKENS), len(TOKENS) + 1


class Toys:
    """A tokenizer as llguidance wants one."""

    eos_token_id, bos_token_id = EOS, None
    tokens = (*TOKENS, b"<eos>", b"<mask>")
    special_token_ids = (EOS, MASK)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def matcher(kind: str, source: str) -> Any:
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Toys()), n_vocab=len(Toys.tokens))
    made = llguidance.LLMatcher(tokenizer, llguidance.grammar_from(kind, source), log_level=0)
    assert not made.is_error(), made.get_error()
    return made


def allowed(made: Automaton, state: int) -> set[int]:
    next_C = made.next_CS[:, state]
    return {token for token in range(len(Toys.tokens)) if next_C[made.classes.class_V[token]] >= 0}


def theirs(other: Any) -> set[int]:
    """Token by token: the matcher's own mask has but one way to write text that is forced."""
    return {token for token in range(EOS) if other.validate_tokens([token])}


def walk(expression: Expression, other: Any, draw: random.Random, *, equal: bool) -> int:
    """Both along one random text; the tokens of it."""
    text = TextMap((*TOKENS, None, None))
    made, state = lifted(compiled(expression), text, ends=(EOS,), mask_id=MASK, vocabulary=MASK + 1), 0
    for step in range(STEPS):
        ours = allowed(made, state)
        accepts = made.least(state) == 0
        assert other.is_accepting() == accepts if equal else not accepts or other.is_accepting()
        assert ours - {EOS} == theirs(other) if equal else ours - {EOS, DELETE} <= theirs(other)
        if step > STEPS // 2:  # home by the shortest way
            ours = {token for token in ours if made.least(made.walk([token], state)) < made.least(state)}
        choices = sorted(ours - {EOS, DELETE})
        if not choices or (accepts and draw.random() < 0.2):
            return step
        token = draw.choice(choices)
        assert other.consume_token(token), (token, other.get_error())
        state = made.walk([token], state)
    return STEPS


@pytest.mark.parametrize("number", range(100))
def test_an_expression_allows_the_same_tokens(number: int) -> None:
    draw = random.Random(number)
    source = pattern(draw)
    walk(whole(source), matcher("regex", source), draw, equal=True)


@pytest.mark.parametrize("number", range(100))
def test_what_a_schema_allows_is_allowed_there(number: int) -> None:
    draw = random.Random(number)
    source = document(draw)
    walk(schema(source), matcher("json_schema", json.dumps(source)), draw, equal=False)
