"""Token ids to text, and where an answer ends: the same rule for every method."""

from collections.abc import Container, Sequence
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """`text` and `tokens` up to the first EOS or stop string; `stopped` says whether there was one.

    Of a canvas (`holes.Layout.read`) `holes` are the texts of those that are over, `used` how many tokens each of them has,
    `complete` whether all of them are.
    """

    text: str
    tokens: int
    stopped: bool
    holes: tuple[str, ...] = ()
    used: tuple[int, ...] = ()
    complete: bool = False


def read(
    token_ids: Sequence[int],
    tokenizer: Any,
    eos_ids: Sequence[int],
    stop: Sequence[str] = (),
    fixed: Container[int] = (),
) -> Answer:
    """Cut an answer at its first EOS, then at the first stop string in its text; an EOS at a `fixed` place is text.

    `tokens` counts the ids before the cut; an id in which a stop string begins is not counted.
    """
    end = _end(token_ids, eos_ids, fixed)
    stopped = end < len(token_ids)
    if tokenizer is None:
        return Answer("", end, stopped)
    text = decode(tokenizer, token_ids[:end])
    whole = text[: _cut(text, stop)]
    if len(whole) == len(text):
        return Answer(text, end, stopped)
    # The longest run of tokens whose text does not reach beyond the cut.
    low, high = 0, end
    while low < high:
        middle = (low + high + 1) // 2
        if len(decode(tokenizer, token_ids[:middle])) <= len(whole):
            low = middle
        else:
            high = middle - 1
    return Answer(whole, low, True)


def settled(
    token_ids: Sequence[int],
    tokenizer: Any,
    eos_ids: Sequence[int],
    stop: Sequence[str] = (),
    fixed: Container[int] = (),
) -> str:
    """The text of a growing answer that no further token can change, so that a stream never takes anything back.

    Held back at the end: a letter of which some bytes are still to come, and what may turn out to begin a stop string.
    """
    if tokenizer is None:
        return ""
    end = _end(token_ids, eos_ids, fixed)
    text = decode(tokenizer, token_ids[:end])
    cut = _cut(text, stop)
    if end == len(token_ids):
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        starts = [
            len(text) - size
            for string in stop
            for size in range(1, min(len(string), len(text) + 1))
            if text.endswith(string[:size])
        ]
        cut = min(cut, *starts) if starts else cut
    return text[:cut]


def decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(token_ids), skip_special_tokens=True)
    return text


def _end(token_ids: Sequence[int], eos_ids: Sequence[int], fixed: Container[int]) -> int:
    """The place of the first EOS that the model has written, or the end."""
    ends = (place for place, token in enumerate(token_ids) if token in eos_ids and place not in fixed)
    return next(ends, len(token_ids))


def _cut(text: str, stop: Sequence[str]) -> int:
    """Where the first stop string begins, or the end."""
    return min((text.find(string) for string in stop if string in text), default=len(text))
