"""Operations on a line of names, after ParallelBench (arXiv 2510.04767): where tokens that are committed together must agree.

    The waiting line is Mia, Tom, Ana. Insert Zoe at any place. Say it as "The answer is" and the names.
    The answer is Mia, Zoe, Tom, Ana.

Copying needs nothing of its neighbours. Where several answers are right (another order, any place), each token alone is open,
and a model that commits many in one forward mixes two answers: a name twice, or none.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from unmask.tasks.problem import Problem, solved
from unmask.tasks.words import NAMES

LENGTHS = (3, 8)


@dataclass(frozen=True, kw_only=True)
class ListOperation:
    """One operation on a line; called with the text of an answer, it says whether that is right.

    Attributes:
        kind: of KINDS.
        line: what is given.
        name: what is inserted or replaces another; empty where the operation needs none.
        expected: the right answer, or one of several.

    >>> rule = ListOperation(kind="insert_random", line=("Mia", "Tom"), name="Zoe", expected=("Mia", "Tom", "Zoe"))
    >>> rule("Zoe, Mia, Tom"), rule("Mia, Zoe, Tom, Zoe"), rule("Zoe, Tom, Mia")
    (True, False, False)
    """

    kind: str
    line: tuple[str, ...]
    expected: tuple[str, ...]
    name: str = ""

    def __call__(self, text: str) -> bool:
        return self.accepts(text.split(", "))

    def accepts(self, names: Sequence[str]) -> bool:
        """Whether these names are a right answer."""
        given, line, places = tuple(names), self.line, range(len(self.line))
        if self.kind == "shuffle":
            return sorted(given) == sorted(line) and given != line
        if self.kind == "insert_random":
            return any(given == (*line[:place], self.name, *line[place:]) for place in (*places, len(line)))
        if self.kind == "remove_random":
            return any(given == (*line[:place], *line[place + 1 :]) for place in places)
        if self.kind == "replace_random":
            return any(given == (*line[:place], self.name, *line[place + 1 :]) for place in places)
        return given == self.expected


Made = tuple[str, list[str]]


def _copy(line: list[str], place: int, name: str, rng: random.Random) -> Made:
    return "Copy the line.", line


def _reverse(line: list[str], place: int, name: str, rng: random.Random) -> Made:
    return "Reverse the line.", line[::-1]


def _sort(line: list[str], place: int, name: str, rng: random.Random) -> Made:
    return "Sort the line by the alphabet.", sorted(line)


def _shuffle(line: list[str], place: int, name: str, rng: random.Random) -> Made:
    # Names differ, so a turn is always another order; the shuffle before it makes all others possible.
    mixed = rng.sample(line, len(line))
    return "Put the line into another order.", mixed if mixed != line else [*line[1:], line[0]]


def _insert_index(line: list[str], place: int, name: str, rng: random.Random) -> Made:
    return f"Insert {name} at place {place + 1}.", [*line[:place], name, *line[place:]]


def _insert_random(line: list[str], place: int, name: str, rng: random.Random) -> Made:
    return f"Insert {name} at any place.", [*line[:place], name, *line[place:]]


def _remove_index(line: list[str], place: int, name: str, rng: random.Random) -> Made:
    return f"Remove the name at place {place + 1}.", [*line[:place], *line[place + 1 :]]


def _remove_random(line: list[str], place: int, name: str, rng: random.Random) -> Made:
    return "Remove any one name.", [*line[:place], *line[place + 1 :]]


def _replace_index(line: list[str], place: int, name: str, rng: random.Random) -> Made:
    return f"Replace the name at place {place + 1} by {name}.", [*line[:place], name, *line[place + 1 :]]


def _replace_random(line: list[str], place: int, name: str, rng: random.Random) -> Made:
    return f"Replace any one name by {name}.", [*line[:place], name, *line[place + 1 :]]


KINDS: Mapping[str, Callable[[list[str], int, str, random.Random], Made]] = {
    "copy": _copy,
    "reverse": _reverse,
    "sort": _sort,
    "shuffle": _shuffle,
    "insert_index": _insert_index,
    "insert_random": _insert_random,
    "remove_index": _remove_index,
    "remove_random": _remove_random,
    "replace_index": _replace_index,
    "replace_random": _replace_random,
}


def sample(rng: random.Random) -> Problem:
    """Draw one problem of any operation, of either split.

    >>> problem = sample(random.Random(1))
    >>> problem.task, problem.key
    ('waiting_line_sort', 'Ben, Carl, Eva, Hugo, Iris, Mia, Noah')
    """
    return sample_of(rng.choice(list(KINDS)), rng)


def sample_of(kind: str, rng: random.Random) -> Problem:
    """Draw one problem of this operation; its `steps` are the names of the line."""
    *line, name = rng.sample(NAMES, rng.randint(*LENGTHS) + 1)
    order, expected = KINDS[kind](line, rng.randrange(len(line)), name, rng)
    rule = ListOperation(kind=kind, line=tuple(line), name=name if name in order else "", expected=tuple(expected))
    return solved(
        task=f"waiting_line_{kind}",
        question=f'The waiting line is {", ".join(line)}. {order} Say it as "The answer is" and the names.',
        worked=[],
        key=", ".join(expected),
        steps=len(line),
        right=rule,
    )
