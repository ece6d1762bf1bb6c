"""From an expression to the smallest deterministic automaton over bytes: Thompson's NFA, subsets, Moore's refinement.

Shapes: S states, K byte classes (bytes that no state tells apart).
"""

import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unmask.errors import GrammarError
from unmask.grammar.expression import Chars, Either, Expression, Joined, Listed, Repeat, Seq, Text
from unmask.grammar.utf8 import ByteRanges, spelled

STATES, SECONDS = 20_000, 10.0
_NFA_STATES = 200_000
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ByteDfa:
    """A deterministic automaton: state 0 begins, -1 is where no text is left.

    Attributes:
        next_SK: the state behind a byte of each class.
        accept_S: where a text may end.
        class_of: of each of the 256 bytes.
    """

    next_SK: Ints
    accept_S: NDArray[np.bool_]
    class_of: Ints

    def accepts(self, text: bytes) -> bool:
        """Whether the text is of the language.

        >>> from unmask.grammar.expression import DIGIT, Repeat
        >>> [compiled(Repeat(DIGIT, 2, 3)).accepts(text) for text in (b"1", b"12", b"1234")]
        [False, True, False]
        """
        state = 0
        for byte in text:
            state = int(self.next_SK[state, self.class_of[byte]])
            if state < 0:
                return False
        return bool(self.accept_S[state])


def compiled(expression: Expression) -> ByteDfa:
    """The smallest automaton of the expression. Raises GrammarError where it is too large, or where no text is of it."""
    nfa = _Nfa()
    end = nfa.add(expression, nfa.state())
    return smallest(_determined(nfa, end))


@dataclass
class _Nfa:
    """States from 0: what each goes on to without a byte, and with one of a range."""

    free: list[list[int]] = field(default_factory=list)
    moves: list[list[tuple[int, int, int]]] = field(default_factory=list)
    tails: dict[tuple[int, ByteRanges], int] = field(default_factory=dict)

    def state(self) -> int:
        if len(self.free) >= _NFA_STATES:
            raise too_large(f"more than {_NFA_STATES:,} parts")
        self.free.append([])
        self.moves.append([])
        return len(self.free) - 1

    def add(self, expression: Expression, begin: int) -> int:
        """The expression from a state on; the state behind it."""
        match expression:
            case Text(text):
                for byte in text.encode():
                    begin = self._move(begin, ((byte, byte),), self.state())
                return begin
            case Chars(ranges):
                end = self.state()
                for low, high in ranges:
                    for sequence in spelled(low, high):
                        self._move(begin, sequence, end)
                return end
            case Seq(parts):
                for part in parts:
                    begin = self.add(part, begin)
                return begin
            case Either(parts):
                end = self.state()
                for part in parts:
                    first = self.state()
                    self.free[begin].append(first)
                    self.free[self.add(part, first)].append(end)
                return end
            case Repeat():
                return self._repeat(expression, begin)
            case Joined(item, separator):
                first, end = self.state(), self.state()
                self.free[begin].append(first)
                self.free[self.add(item, first)].append(end)
                self.free[self.add(separator, end)].append(first)
                return end
            case Listed():
                return self._list(expression, begin)

    def _move(self, begin: int, ranges: ByteRanges, end: int) -> int:
        """A sequence of bytes; sequences into one state share what they end with."""
        target = end
        for place in range(len(ranges) - 1, 0, -1):
            key = end, ranges[place:]
            if key not in self.tails:
                self.tails[key] = self.state()
                self.moves[self.tails[key]].append((*ranges[place], target))
            target = self.tails[key]
        self.moves[begin].append((*ranges[0], target))
        return end

    def _repeat(self, repeat: Repeat, begin: int) -> int:
        for _ in range(repeat.least):
            begin = self.add(repeat.part, begin)
        if repeat.most is None:
            loop = self.state()
            self.free[begin].append(loop)
            self.free[self.add(repeat.part, loop)].append(loop)
            return loop
        end = self.state()
        self.free[begin].append(end)
        for _ in range(repeat.most - repeat.least):
            first = self.state()
            self.free[begin].append(first)
            begin = self.add(repeat.part, first)
            self.free[begin].append(end)
        return end

    def _list(self, listed: Listed, none: int) -> int:
        """`none` and `some`: behind no item yet, and behind at least one. Each item stands there once."""
        some = self.state()
        for item, needed in listed.items:
            first, later_none, later_some = self.state(), self.state(), self.state()
            self.free[none].append(first)
            self.free[self.add(listed.separator, some)].append(first)
            self.free[self.add(item, first)].append(later_some)
            if not needed:
                self.free[none].append(later_none)
                self.free[some].append(later_some)
            none, some = later_none, later_some
        self.free[none].append(some)
        return some


def _determined(nfa: _Nfa, end: int) -> ByteDfa:
    """The subset construction, within `STATES` and `SECONDS`."""
    bounds = sorted({0, 256} | {edge for moves in nfa.moves for low, high, _ in moves for edge in (low, high + 1)})
    class_of = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    moves = [[(class_of[low], class_of[high], to) for low, high, to in some] for some in nfa.moves]
    closures: dict[int, frozenset[int]] = {}

    def closure(state: int) -> frozenset[int]:
        """What a state is at once: those that read a byte, and the end."""
        if state not in closures:
            seen, todo = {state}, [state]
            while todo:
                fresh = [other for other in nfa.free[todo.pop()] if other not in seen]
                seen.update(fresh)
                todo += fresh
            closures[state] = frozenset(one for one in seen if moves[one] or one == end)
        return closures[state]

    first = closure(0)
    numbers, todo, rows, deadline = {first: 0}, deque([first]), [], time.monotonic() + SECONDS
    while todo:
        targets: list[set[int]] = [set() for _ in bounds[1:]]
        for state in todo.popleft():
            for low, high, to in moves[state]:
                for byte_class in range(low, high + 1):
                    targets[byte_class] |= closure(to)
        row = []
        for target in map(frozenset, targets):
            if target and target not in numbers:
                numbers[target] = len(numbers)
                todo.append(target)
            row.append(numbers[target] if target else -1)
        rows.append(row)
        if len(numbers) > STATES or time.monotonic() > deadline:
            raise too_large(f"more than {STATES:,} states" if len(numbers) > STATES else f"more than {SECONDS:g} seconds")
    return ByteDfa(np.array(rows), np.array([end in states for states in numbers]), class_of)


def too_large(how: str) -> GrammarError:
    """The error for a language that needs more than may be spent on it."""
    return GrammarError(f"the grammar is too large, it needs {how}: shorten maxLength, maxItems or {{n,m}}, or nest less")


def smallest(dfa: ByteDfa) -> ByteDfa:
    """An equal automaton of no state too many. Raises GrammarError where no state leads to an end."""
    next_SK = dfa.next_SK
    from_E, class_E = np.nonzero(next_SK >= 0)
    left_S = distances(from_E, next_SK[from_E, class_E], dfa.accept_S)
    if left_S[0] < 0:
        raise GrammarError("the grammar has no text at all: no answer could satisfy it")
    next_SK = np.where((next_SK >= 0) & (left_S[next_SK] >= 0), next_SK, -1)
    # States from which the end is not equally far are not equal, which leaves little to refine.
    label_S = np.unique(left_S, return_inverse=True)[1]
    weight_K = np.random.default_rng(0).integers(1, 2**62, 1 + next_SK.shape[1]) | 1
    while True:
        seen_SK = np.concatenate([label_S[:, None], np.where(next_SK >= 0, label_S[next_SK], -1)], axis=1)
        finer_S = np.unique((seen_SK * weight_K).sum(axis=1), return_inverse=True)[1]  # modulo 2**64, as a hash
        if finer_S.max() == label_S.max():
            break
        label_S = finer_S
    return _renumbered(ByteDfa(next_SK, dfa.accept_S, dfa.class_of), label_S)


def _renumbered(dfa: ByteDfa, label_S: Ints) -> ByteDfa:
    """One state per label, those that state 0 reaches, in the order in which they are found; equal byte classes joined."""
    one_of = np.unique(label_S, return_index=True)[1]
    order, place = [int(label_S[0])], {int(label_S[0]): 0}
    rows = []
    for label in order:  # it grows
        row = []
        for state in dfa.next_SK[one_of[label]].tolist():
            found = int(label_S[state]) if state >= 0 else -1
            if found >= 0 and found not in place:
                place[found] = len(order)
                order.append(found)
            row.append(place.get(found, -1))
        rows.append(row)
    columns_KS, class_of = np.unique(np.array(rows).T, axis=0, return_inverse=True)
    return ByteDfa(np.ascontiguousarray(columns_KS.T), dfa.accept_S[one_of[order]], class_of.ravel()[dfa.class_of])


def distances(from_E: Ints, to_E: Ints, goal_S: NDArray[np.bool_]) -> Ints:
    """Edges from each state to the nearest goal; -1 where none leads there.

    >>> distances(np.array([0, 1]), np.array([1, 2]), np.array([False, False, True, False])).tolist()
    [2, 1, 0, -1]
    """
    order = np.argsort(to_E, kind="stable")
    from_E, starts = from_E[order], np.searchsorted(to_E[order], np.arange(len(goal_S) + 1))
    far_S = np.where(goal_S, 0, -1)
    front = np.flatnonzero(goal_S)
    while len(front):
        before = np.unique(np.concatenate([from_E[starts[state] : starts[state + 1]] for state in front]))
        fresh = before[far_S[before] < 0]
        far_S[fresh] = far_S[front[0]] + 1
        front = fresh
    return far_S
