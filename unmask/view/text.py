"""What each token adds to the text of an answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from unmask.engine.text import decode

UNFINISHED = "\ufffd"  # what a tokenizer writes for the first bytes of a character


def pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; joined, the pieces are the whole text.

    A character of several tokens belongs to its last one. Without a tokenizer the ids themselves are the text.

    >>> pieces(None, [7, 12])
    [' 7', ' 12']
    """
    if tokenizer is None:
        return [f" {token}" for token in token_ids]
    found: list[str] = []
    begin = done = 0  # where the last piece begins, which decoders look back at, and how many tokens have their text
    for end in range(1, len(token_ids) + 1):
        text = decode(tokenizer, token_ids[begin:end])
        if text.endswith(UNFINISHED) and end < len(token_ids):
            found.append("")
            continue
        found.append(text[len(decode(tokenizer, token_ids[begin:done])) :])
        begin, done = done if found[-1] else begin, end
    return found


def written_pieces(tokenizer: Any, written: Mapping[int, int], length: int) -> list[str]:
    """Of each of so many places what its token adds; "" where nothing is written.

    >>> written_pieces(None, {0: 7, 2: 5}, 4)
    [' 7', '', ' 5', '']
    """
    found, place = [""] * length, 0
    while place < length:
        run = place
        while run in written:
            run += 1
        ids = [written[inside] for inside in range(place, run)]
        if place and ids:  # the token before is masked: the first one twice, to find whether a space is due
            found[place:run] = pieces(tokenizer, [ids[0], *ids])[1:]
        elif ids:
            found[place:run] = pieces(tokenizer, ids)
        place = run + 1
    return found
