"""Grammars for toys, which have 24 tokens: their texts are made of pieces of JSON, some of several letters."""

import random

import numpy as np

from unmask.decode.automaton import Automaton
from unmask.grammar.constraint import Grammar
from unmask.grammar.dfa import ByteDfa, compiled, distances
from unmask.grammar.expression import Expression
from unmask.grammar.lift import automaton, lifted
from unmask.grammar.text import TextMap
from unmask.models.toy import EOS, MASK, VOCABULARY

PIECES = (
    '{"',
    '":',
    '"',
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "a",
    "b",
    "ab",
    "0",
    "1",
    "12",
    "-",
    ".",
    "true",
    "false",
    "null",
    "}}",
    " ",
)
TEXT = TextMap((*(piece.encode() for piece in PIECES), None, None))


def written(ids: list[int]) -> str:
    """The text of an answer's ids, up to its end."""
    return TEXT.write(ids[: ids.index(EOS)] if EOS in ids else ids)


def toy_automaton(expression: Expression) -> Automaton:
    return lifted(compiled(expression), TEXT, ends=(EOS,), mask_id=MASK, vocabulary=VOCABULARY)


def held(expression: Expression, limit: int) -> Grammar:
    return Grammar(automaton=toy_automaton(expression), limit=limit)


def everything(limit: int, *, mask_id: int, vocabulary: int, forbidden: tuple[int, ...] = ()) -> Grammar:
    """One state to which every token leads back, but for the mask."""
    class_V = np.ones(vocabulary, dtype=np.int64)
    class_V[[mask_id, *forbidden]] = 0
    end = next(token for token in range(vocabulary) if class_V[token])
    made = automaton(np.array([[-1], [0]]), class_V, np.array([True]), ends=(end,), mask_id=mask_id)
    return Grammar(automaton=made, limit=limit)


def sample(dfa: ByteDfa, draw: random.Random, patience: int = 40) -> str:
    """A text of the automaton: at random for a while, then by the shortest way."""
    state_E, class_E = np.nonzero(dfa.next_SK >= 0)
    left_S = distances(state_E, dfa.next_SK[state_E, class_E], dfa.accept_S)
    bytes_of = [np.flatnonzero(dfa.class_of == one).tolist() for one in range(dfa.next_SK.shape[1])]
    state, text = 0, bytearray()
    while True:
        if dfa.accept_S[state] and (patience <= 0 or draw.random() < 0.1):
            return text.decode()
        ways = [(one, int(to)) for one, to in enumerate(dfa.next_SK[state]) if to >= 0]
        if not ways:
            return text.decode()
        if patience <= 0:
            ways = [(one, to) for one, to in ways if left_S[to] < left_S[state]]
        one, state = draw.choice(ways)
        text.append(draw.choice(bytes_of[one]))
        patience -= 1
