"""Worked examples before a question: as a base model has to be asked."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from unmask.errors import ConfigError
from unmask.evals.task import Source

# Where a model that goes on with a question of its own is cut.
STOP = ("\nQuestion:",)

T = TypeVar("T")


def few_shot(examples: Iterable[tuple[str, str]], question: str) -> str:
    r"""Questions with their answers, and a question whose answer is left open.

    >>> few_shot([("What is 1 + 1?", "2")], "What is 2 + 2?")
    'Question: What is 1 + 1?\nAnswer: 2\n\nQuestion: What is 2 + 2?\nAnswer:'
    """
    solved = (f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in examples)
    return "".join(solved) + f"Question: {question}\nAnswer:"


def first(rows: Sequence[T], shots: int, where: str) -> Sequence[T]:
    """The first `shots` rows. Raises ConfigError where no row is left behind them."""
    if shots >= len(rows):
        raise ConfigError(f"{where} has {len(rows)} rows: ask for fewer than {len(rows)} shots")
    return rows[:shots]


def refuse(name: str, source: Source) -> None:
    """Raises ConfigError if examples are asked for where the data has none."""
    if source.shots:
        raise ConfigError(f"{name} has no examples that are not asked: leave --shots out")
