"""Whether an engine's forwards are as they should be: they end in time, and make numbers. It reads no clock."""

from typing import Literal

Trouble = Literal["stuck", "failing"]
ROW = 3  # bad forwards one after the other
RETRY = 30.0  # seconds after the last bad forward: whoever sends requests by health would never send the one that is good


class Health:
    """What the last forwards say; times are seconds of any one clock.

    >>> health = Health(forward_seconds=1.0, first_forward_seconds=60.0)
    >>> health.begin(0.0)
    >>> health.trouble(59.0), health.trouble(61.0)
    (None, 'stuck')
    >>> health.end(62.0, rows=2, broken=2)
    >>> health.trouble(62.0), health.trouble(99.0)
    ('failing', None)
    """

    def __init__(self, forward_seconds: float, first_forward_seconds: float) -> None:
        """A forward may take so long; the first one, which may compile, has its own limit."""
        self._seconds, self._limit = forward_seconds, first_forward_seconds
        self._began: float | None = None
        self._bad = 0  # forwards in a row
        self._last_bad = 0.0

    def begin(self, now: float) -> None:
        """A forward begins."""
        self._began = now

    def end(self, now: float, *, rows: int, broken: int, raised: bool = False) -> None:
        """It has ended: `broken` of its rows have logits that are no numbers, or it has `raised`.

        One that is bad for all of its rows counts as many.
        """
        self._began = None
        if broken or raised:
            self._bad += ROW if broken and broken == rows else 1
            self._last_bad = now
        elif rows:
            self._bad, self._limit = 0, self._seconds

    def trouble(self, now: float) -> Trouble | None:
        """What is wrong, if anything is."""
        if self._began is not None and now - self._began > self._limit:
            return "stuck"
        return "failing" if self._bad >= ROW and now - self._last_bad < RETRY else None
