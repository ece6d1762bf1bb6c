"""Worked examples before a question, which a base model needs."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from unmask.errors import ConfigError
from unmask.evals.task import Source

# A model that goes on with another question is cut there.
STOP = ("\nQuestion:",)

T = TypeVar("T")


def few_shot(examples: Iterable[tuple[str, str]], question: str) -> str:
    r"""Questions with their answers, then a question without one.

    >>> few_shot([("What is 1 + 1?", "2")], "What is 2 + 2?")
    'Question: What is 1 + 1?\nAnswer: 2\n\nQuestion: What is 2 + 2?\nAnswer:'
    """
    solved = (f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in examples)
    return "".join(solved) + f"Question: {question}\nAnswer:"


def first(rows: Sequence[T], shots: int, where: str) -> Sequence[T]:
    """The first `shots` rows. Raises ConfigError if no row is left after them."""
    if shots >= len(rows):
        raise ConfigError(f"{where} has {len(rows)} rows: ask for fewer than {len(rows)} shots")
    return rows[:shots]


def refuse(name: str, source: Source) -> None:
    """Raises ConfigError if examples are wanted for a task whose data has none."""
    if source.shots:
        raise ConfigError(f"{name} has no worked examples besides its items: leave --shots out")
