"""Token ids to text, and where an answer ends: the same rule for every method."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """`text` and `tokens` up to the first EOS or stop string; `stopped` says whether there was one."""

    text: str
    tokens: int
    stopped: bool


def read(token_ids: Sequence[int], tokenizer: Any, eos_ids: Sequence[int], stop: Sequence[str] = ()) -> Answer:
    """Cut an answer at its first EOS, then at the first stop string in its text.

    `tokens` counts the ids before the cut; an id in which a stop string begins is not counted.
    """
    end = next((place for place, token in enumerate(token_ids) if token in eos_ids), len(token_ids))
    stopped = end < len(token_ids)
    if tokenizer is None:
        return Answer("", end, stopped)
    text = decode(tokenizer, token_ids[:end])
    cuts = [text.find(string) for string in stop if string in text]
    if not cuts:
        return Answer(text, end, stopped)
    whole = text[: min(cuts)]
    # The longest run of tokens whose text does not reach beyond the cut.
    low, high = 0, end
    while low < high:
        middle = (low + high + 1) // 2
        if len(decode(tokenizer, token_ids[:middle])) <= len(whole):
            low = middle
        else:
            high = middle - 1
    return Answer(whole, low, True)


def decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(token_ids), skip_special_tokens=True)
    return text
