"""Ranges of code points as sequences of byte ranges, as UTF-8 spells them."""

from collections.abc import Iterator

ByteRanges = tuple[tuple[int, int], ...]
_LAST = (0x7F, 0x7FF, 0xFFFF, 0x10FFFF)  # of one, two, three and four bytes


def spelled(low: int, high: int) -> Iterator[ByteRanges]:
    """The byte sequences of the code points from `low` to `high`, each byte in its range.

    >>> list(spelled(0x41, 0xBF))
    [((65, 127),), ((194, 194), (128, 191))]
    """
    for size, last in enumerate(_LAST, start=1):
        if low <= min(high, last):
            yield from _of_size(low, min(high, last), size)
            low = last + 1


def _of_size(low: int, high: int, size: int) -> Iterator[ByteRanges]:
    """Likewise, where all have one size: split until every byte but the first that differs is free."""
    for tail in range(1, size):
        free = (1 << 6 * tail) - 1  # values of the last `tail` bytes
        if low & ~free != high & ~free:
            if low & free:
                yield from _of_size(low, low | free, size)
                yield from _of_size((low | free) + 1, high, size)
                return
            if high & free != free:
                yield from _of_size(low, (high & ~free) - 1, size)
                yield from _of_size(high & ~free, high, size)
                return
    yield tuple(zip(_bytes(low, size), _bytes(high, size), strict=True))


def _bytes(code: int, size: int) -> list[int]:
    if size == 1:
        return [code]
    tail = [0x80 | (code >> 6 * place) & 0x3F for place in reversed(range(size - 1))]
    return [(0xF00 >> size) & 0xFF | code >> 6 * (size - 1), *tail]
