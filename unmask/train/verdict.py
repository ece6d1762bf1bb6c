r"""Which of several answers to one question count as right: by a key or, without one, by majority.

Answers are read as `unmask eval` reads them (tasks/answers.py): numbers by value, so that $18.00, "18 dollars" and 18 are one
answer. An answer in words or a formula is compared as text.
"""

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal

from unmask.tasks.answers import only_number, stated_number, statement

# A key that is a number and nothing else: 18, 1,007, $18.00, 5%, 17.0.
_NUMBER = re.compile(r"[\s$\\]*[-\u2212]?[\s$\\]*[0-9.,]*[0-9][0-9.,]*[\s$\\%.]*")


def verdicts(texts: Sequence[str], key: str | None) -> list[bool]:
    """Whether each text's final answer is `key` or, without a key, the most common one of at least two texts.

    A key is the bare answer or a whole worked one that ends in #### or a box, as GSM8K's and MATH's are.

    >>> verdicts(["The answer is $18.00.", "#### 18 dollars", "So 17."], "18")
    [True, True, False]
    >>> verdicts(["The answer is 4.", "The answer is 5.", "So 4."], None)
    [True, False, True]
    """
    if key is None:
        return _majority([_final(text) for text in texts])
    if "####" in key or "boxed" in key:
        key = statement(key) or key
    number = only_number(key) if _NUMBER.fullmatch(key) else None
    if number is not None:
        return [stated_number(text) == number for text in texts]
    wanted = _plain(key)
    return [_plain(statement(text) or text) == wanted for text in texts]


def _majority(answers: Sequence[Decimal | str | None]) -> list[bool]:
    common = Counter(answer for answer in answers if answer is not None).most_common(2)
    if not common or common[0][1] < 2 or (len(common) > 1 and common[1][1] == common[0][1]):
        return [False] * len(answers)
    return [answer == common[0][0] for answer in answers]


def _final(text: str) -> Decimal | str | None:
    """What a text gives as its result: a number if it states one, otherwise the words, or the last number that it holds."""
    said = statement(text)
    if said is None:
        return stated_number(text)
    number = only_number(said)
    return _plain(said) if number is None else number


def _plain(said: str) -> str:
    """Words or a formula without marks around them: emphasis, dollar signs, brackets of LaTeX, a full stop."""
    text = re.sub(r"\\[()\[\]]", "", said).strip(" *$.\n")
    return re.sub(r"\s+", " ", text).casefold()
