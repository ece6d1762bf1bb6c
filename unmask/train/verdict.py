"""Which of several answers to one question count as right: by a key or, without one, by majority."""

import re
from collections import Counter
from collections.abc import Sequence

# The most explicit form wins; within a form, the last statement.
_FORMS = (
    re.compile(r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"),
    re.compile(r"####\s*([^\n]+)"),
    re.compile(r"[Aa]nswer is:?\s*([^\n]+?)\.?(?:\s|$)"),
    re.compile(r"(-?[\d,]*\.?\d+)"),
)


def final_answer(text: str) -> str | None:
    """The answer that a text states: boxed, after ####, after "answer is", or its last number; None without any of these.

    >>> final_answer("So 3 + 4 = 7. The answer is $1,007."), final_answer("no idea")
    ('1007', None)
    """
    for form in _FORMS:
        found: list[str] = form.findall(text)
        if found:
            return re.sub(r"(?<=\d),(?=\d{3})", "", found[-1].strip(" $*").rstrip("."))
    return None


def verdicts(texts: Sequence[str], key: str | None) -> list[bool]:
    """Whether each text's final answer is `key` or, without a key, the most common one of at least two texts.

    >>> verdicts(["The answer is 4.", "The answer is 5.", "So 4."], None)
    [True, False, True]
    """
    answers = [final_answer(text) for text in texts]
    if key is None:
        common = Counter(answer for answer in answers if answer is not None).most_common(2)
        if not common or common[0][1] < 2 or (len(common) > 1 and common[1][1] == common[0][1]):
            return [False] * len(texts)
        key = common[0][0]
    # A key may be the bare answer or a whole worked one, as GSM8K's are.
    key = (final_answer(key) if "####" in key or "boxed" in key else None) or re.sub(r"(?<=\d),(?=\d{3})", "", key.strip())
    return [answer == key for answer in answers]
