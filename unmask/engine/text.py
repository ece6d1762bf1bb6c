"""Token ids to text, and where an answer ends: the same rule for every method."""

import functools
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
    found = [
        _cut_answer(token_ids[:end], tokenizer, strings, special)
        for special, strings in zip((False, True), split(stop, tokenizer), strict=True)
        if strings or not special
    ]
    first = min(found, key=lambda answer: (len(answer.text), answer.tokens))
    return first._replace(stopped=stopped or first.stopped)


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
    ids, grows = token_ids[:end], end == len(token_ids)
    plain, named = split(stop, tokenizer)
    text = decode(tokenizer, ids)
    text = text[: _held(text, plain, grows)]
    if not named:
        return text
    shown = decode(tokenizer, ids, special=True)
    return min(text, _before(ids, tokenizer, shown, _held(shown, named, grows))[0], key=len)


def split(stop: Sequence[str], tokenizer: Any) -> tuple[list[str], list[str]]:
    """Stop strings of plain text, and those in which a special token is spelled, such as <|user|>.

    The text of an answer shows no special token: the latter are looked for in a text that does.
    """
    named = [string for string in stop if any(token in string for token in _special(tokenizer))]
    return [string for string in stop if string not in named], named


@functools.lru_cache(maxsize=8)
def _special(tokenizer: Any) -> tuple[str, ...]:
    """The special tokens; the tokenizer makes the list anew each time, and a row's text is read at every forward."""
    return tuple(str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special)


def decode(tokenizer: Any, token_ids: Sequence[int], *, special: bool = False) -> str:
    """The text of token ids, special tokens left out unless they are asked for."""
    text: str = tokenizer.decode(list(token_ids), skip_special_tokens=not special)
    return text


def _cut_answer(token_ids: Sequence[int], tokenizer: Any, stop: Sequence[str], special: bool) -> Answer:
    """An answer without EOS up to its first stop string, looked for in the text with or without special tokens."""
    shown = decode(tokenizer, token_ids, special=special)
    cut = _cut(shown, stop)
    if cut == len(shown):
        return Answer(decode(tokenizer, token_ids), len(token_ids), False)
    if special:
        return Answer(*_before(token_ids, tokenizer, shown, cut), True)
    return Answer(shown[:cut], within(token_ids, tokenizer, cut), True)


def _before(token_ids: Sequence[int], tokenizer: Any, shown: str, cut: int) -> tuple[str, int]:
    """The text without special tokens that stands before a place of the text with them, and its whole tokens."""
    tokens = within(token_ids, tokenizer, cut, special=True)
    rest = shown[len(decode(tokenizer, token_ids[:tokens], special=True)) : cut]
    return decode(tokenizer, token_ids[:tokens]) + rest, tokens


def within(token_ids: Sequence[int], tokenizer: Any, cut: int, *, special: bool = False) -> int:
    """The longest run of tokens whose text does not reach beyond a place."""
    low, high = 0, len(token_ids)
    while low < high:
        middle = (low + high + 1) // 2
        if len(decode(tokenizer, token_ids[:middle], special=special)) <= cut:
            low = middle
        else:
            high = middle - 1
    return low


def _held(text: str, stop: Sequence[str], grows: bool) -> int:
    """Up to where a text can no longer change: of one that grows, what may begin a letter or a stop string is held back."""
    cut = _cut(text, stop)
    if not grows:
        return cut
    whole = text.rstrip("\N{REPLACEMENT CHARACTER}")
    return min([cut, len(whole), *(_begins(string, whole) for string in stop)])


def _end(token_ids: Sequence[int], eos_ids: Sequence[int], fixed: Container[int]) -> int:
    """The place of the first EOS that the model has written, or the end."""
    ends = (place for place, token in enumerate(token_ids) if token in eos_ids and place not in fixed)
    return next(ends, len(token_ids))


def _begins(string: str, text: str) -> int:
    """Where a part of the string stands at the end of a text, which more text may complete; or the end."""
    place = text.find(string[0], max(0, len(text) - len(string) + 1))
    while place >= 0 and not string.startswith(text[place:]):
        place = text.find(string[0], place + 1)
    return place if place >= 0 else len(text)


def _cut(text: str, stop: Sequence[str]) -> int:
    """Where the first stop string begins, or the end."""
    return min((text.find(string) for string in stop if string in text), default=len(text))
