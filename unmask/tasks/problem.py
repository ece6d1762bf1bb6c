"""One generated problem, its split (train or test), and the check of an answer."""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]
HELD_OUT = 0.05

# Read by `verify`, written by `solved`.
_ANSWER = re.compile(r"The answer is ((?:[^.]|\.(?=\d))+)\.")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One question, a worked answer, the text that every right answer states (`key`), and its number of steps.

    `family` is the unit that belongs to one split only: the question itself, or the template that it was made from.
    `right` says of a stated answer whether it is right, where there is more than one; None: only `key` is.
    """

    task: str
    question: str
    worked: str
    key: str
    steps: int
    family: str | None = None
    right: Callable[[str], bool] | None = None

    @property
    def split(self) -> Split:
        """Decided by a hash of the family: the same on every machine and in every version of Python."""
        digest = hashlib.sha256((self.family or self.question).encode()).digest()
        return "test" if int.from_bytes(digest[:8], "big") < HELD_OUT * 2**64 else "train"

    def verify(self, text: str) -> bool:
        """Whether the last answer that `text` states is exactly `key`, or another right one.

        A number elsewhere in the text does not count.

        >>> three = Problem(task="chain", question="Compute 12 - 9.", worked="", key="3", steps=1)
        >>> three.verify("12 - 9 = 3. The answer is 3."), three.verify("The answer is 13."), three.verify("3")
        (True, False, False)
        """
        stated: list[str] = _ANSWER.findall(text)
        return bool(stated) and (stated[-1] == self.key if self.right is None else self.right(stated[-1]))


def solved(
    *,
    task: str,
    question: str,
    worked: Iterable[str],
    key: str,
    steps: int,
    family: str | None = None,
    right: Callable[[str], bool] | None = None,
) -> Problem:
    """A problem from the sentences of its solution, without empty ones; a sentence with the answer follows them.

    >>> solved(task="chain", question="Compute 12 - 9.", worked=["", "12 - 9 = 3."], key="3", steps=1).worked
    '12 - 9 = 3. The answer is 3.'
    """
    sentences = [sentence for sentence in worked if sentence]
    text = " ".join([*sentences, f"The answer is {key}."])
    return Problem(task=task, question=question, worked=text, key=key, steps=steps, family=family, right=right)
