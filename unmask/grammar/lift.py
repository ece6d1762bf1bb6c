"""From bytes to tokens: the automaton that decoding walks.

A token takes every state of the byte automaton to another one; tokens that do the same in all states are one class. A model
has some 100,000 tokens, and a grammar tells apart a few hundred classes, so everything behind this file is small.

Shapes: S states, C token classes, P pairs of states with a token between them, N sets of classes that pairs have, V vocabulary.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from unmask.decode.constraint import Automaton
from unmask.errors import GrammarError
from unmask.grammar.dfa import ByteDfa, Ints, distances, smallest, too_large
from unmask.grammar.text import TextMap

PAIRS = 200_000
_UNWRITTEN = "no answer satisfies the grammar: this model's tokenizer cannot write any text of it"


def lifted(dfa: ByteDfa, text: TextMap, *, ends: Sequence[int], mask_id: int, vocabulary: int) -> Automaton:
    """The automaton over a model's ids. `ends` are the ids that end an answer: they follow a text of the language.

    Raises GrammarError where the tokenizer cannot write any text of the language.
    """
    try:
        written = smallest(composed(dfa, text))
    except GrammarError:
        raise GrammarError(_UNWRITTEN) from None
    silent = {mask_id, *ends}
    tokens = [None if number in silent else token for number, token in enumerate(text.tokens[:vocabulary])]
    column_V, columns_CS = _columns(written, tokens)
    states = len(written.next_SK)
    end = states  # behind an answer there are only its ends
    end_class = len(columns_CS)
    class_V = np.zeros(vocabulary, dtype=np.int64)
    class_V[: len(column_V)] = column_V
    class_V[list(ends)] = end_class
    next_CS = np.full((end_class + 1, states + 1), -1, dtype=np.int64)
    next_CS[:end_class, :states] = columns_CS
    next_CS[end_class, :states] = np.where(written.accept_S, end, -1)
    next_CS[end_class, end] = end
    return automaton(next_CS, class_V, np.append(written.accept_S, True), ends=ends, mask_id=mask_id)


def automaton(next_CS: Ints, class_V: Ints, accept_S: NDArray[np.bool_], *, ends: Sequence[int], mask_id: int) -> Automaton:
    """Of the state behind each class in each state (-1: none), the class of each id, and where an answer may end.

    State 0 begins. States that lead nowhere are left out. Raises GrammarError where state 0 is one of them.
    """
    next_CS = np.where(np.bincount(class_V, minlength=len(next_CS))[:, None] > 0, next_CS, -1)
    class_E, from_E = np.nonzero(next_CS >= 0)
    left_S = distances(from_E, next_CS[class_E, from_E], accept_S)
    if left_S[0] < 0:
        raise GrammarError(_UNWRITTEN)
    next_CS = np.where((next_CS >= 0) & (left_S[next_CS] >= 0), next_CS, -1)
    kept = _reached(next_CS)
    place_S = np.full(len(left_S) + 1, -1)  # and -1 of -1
    place_S[kept] = np.arange(len(kept))
    next_CS = place_S[next_CS[:, kept]]
    next_CS, class_V = _joined(next_CS, class_V)
    from_P, to_P, set_P, member_NC = _pairs(next_CS)
    return Automaton.of(
        next_CS=torch.from_numpy(next_CS),
        class_V=torch.from_numpy(class_V),
        from_P=torch.from_numpy(from_P),
        to_P=torch.from_numpy(to_P),
        set_P=torch.from_numpy(set_P),
        member_NC=torch.from_numpy(member_NC),
        left_S=torch.from_numpy(left_S[kept]),
        ends=tuple(ends),
        mask_id=mask_id,
    )


def composed(dfa: ByteDfa, text: TextMap) -> ByteDfa:
    """The automaton that reads the tokens' bytes and follows what the tokenizer's decoder writes for them."""
    count = text.states
    steps = [[text.step(state, byte) for byte in range(256)] for state in range(count)]
    # Bytes are alike where the automaton and the transducer do the same with them.
    does = [
        (int(dfa.class_of[byte]), *((len(steps[state][byte][0]), steps[state][byte][1]) for state in range(count)))
        for byte in range(256)
    ]
    numbers = {one: number for number, one in enumerate(dict.fromkeys(does))}
    states = len(dfa.next_SK)
    next_SK = np.full((states, count, len(numbers)), -1, dtype=np.int64)
    for column, byte in {numbers[one]: byte for byte, one in enumerate(does)}.items():
        for state in range(count):
            out, behind = steps[state][byte]
            to_S = np.arange(states)
            for letter in out:
                to_S = np.where(to_S >= 0, dfa.next_SK[to_S, dfa.class_of[letter]], -1)
            next_SK[:, state, column] = np.where(to_S >= 0, to_S * count + behind, -1)
    class_of = np.array([numbers[one] for one in does])
    return ByteDfa(next_SK.reshape(states * count, -1), np.repeat(dfa.accept_S, count), class_of)


def _columns(dfa: ByteDfa, tokens: Sequence[bytes | None]) -> tuple[Ints, Ints]:
    """The class of each token, and the state behind it in each state: [C, S]; class 0 leads nowhere.

    All tokens are read at once, byte by byte. Those that have done the same so far are one column, of which there are few.
    """
    none, same = np.full(len(dfa.next_SK), -1), np.arange(len(dfa.next_SK))
    columns, numbers = [none, same], {none.tobytes(): 0, same.tobytes(): 1}
    sizes = np.array([len(token or b"") for token in tokens], dtype=np.int64)
    joined = np.frombuffer(b"".join(token or b"" for token in tokens), dtype=np.uint8)
    begin_V = np.cumsum(sizes) - sizes
    column_V = (sizes > 0).astype(np.int64)
    classes = dfa.next_SK.shape[1]
    for place in range(int(sizes.max(initial=0))):
        reads = np.flatnonzero((sizes > place) & (column_V > 0))
        step_R = column_V[reads] * classes + dfa.class_of[joined[begin_V[reads] + place]]
        steps, inverse_R = np.unique(step_R, return_inverse=True)
        found = []
        for step in steps.tolist():
            before, byte = columns[step // classes], step % classes
            column = np.where(before >= 0, dfa.next_SK[before, byte], -1)
            number = numbers.setdefault(column.tobytes(), len(columns))
            if number == len(columns):
                columns.append(column)
                if len(columns) * len(column) > 2**26:
                    raise too_large(f"more than {2**26:,} transitions")
            found.append(number)
        column_V[reads] = np.array(found, dtype=np.int64)[inverse_R]
    used, column_V = np.unique(np.append(column_V, 0), return_inverse=True)
    return column_V[:-1], np.stack([columns[number] for number in used])


def _reached(next_CS: Ints) -> list[int]:
    """The states that state 0 leads to, itself first."""
    seen, order = np.zeros(next_CS.shape[1] + 1, dtype=bool), [0]
    seen[[0, -1]] = True
    for state in order:  # it grows
        fresh = [one for one in np.unique(next_CS[:, state]).tolist() if not seen[one]]
        seen[fresh] = True
        order += fresh
    return order


def _joined(next_CS: Ints, class_V: Ints) -> tuple[Ints, Ints]:
    """With classes that do the same in all states joined; class 0 leads nowhere."""
    nowhere = np.full((1, next_CS.shape[1]), -1)
    columns, inverse = np.unique(np.concatenate([nowhere, next_CS]), axis=0, return_inverse=True)
    assert (columns[0] == -1).all(), "-1 is the least"
    return columns, inverse.ravel()[1:][class_V]


def _pairs(next_CS: Ints) -> tuple[Ints, Ints, Ints, NDArray[np.bool_]]:
    """Pairs of states by their beginnings, and for each which set of classes leads from one to the other."""
    from_E, class_E = np.nonzero(next_CS.T >= 0)
    to_E = next_CS[class_E, from_E]
    order = np.lexsort((class_E, to_E, from_E))
    from_E, class_E, to_E = from_E[order], class_E[order], to_E[order]
    begins = np.flatnonzero(np.diff(from_E, prepend=-1) | np.diff(to_E, prepend=-1))
    if len(begins) > PAIRS:
        raise too_large(f"more than {PAIRS:,} pairs of states")
    sets: dict[bytes, int] = {}
    members: list[Iterable[int]] = []
    set_P = []
    for some in np.split(class_E, begins[1:]):
        number = sets.setdefault(some.tobytes(), len(sets))
        if number == len(members):
            members.append(some)
        set_P.append(number)
    member_NC = np.zeros((len(members), len(next_CS)), dtype=bool)
    for number, some in enumerate(members):
        member_NC[number, some] = True
    return from_E[begins], to_E[begins], np.array(set_P, dtype=np.int64), member_NC
