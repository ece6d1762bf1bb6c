"""Which requests join and which run, as pure functions of numbers; both lists come longest waiting first.

None starves. The first in line joins before all behind it, and a request that runs goes to the end of the line, so one
that the budget leaves out moves up until it is first; the first always fits, because what can never fit is refused.
"""

import itertools
from collections.abc import Iterable, Sequence


def admit(pages: Iterable[int], *, free: int, rows: int) -> int:
    """How many of the requests that wait for memory join: `pages` is what each needs, `free` and `rows` what there is of both.

    Strictly in order: a small request does not overtake a large one, which might otherwise wait for ever.

    >>> admit([4, 2, 9, 1], free=8, rows=5), admit([4, 2, 1], free=8, rows=2)
    (2, 2)
    """
    joined = 0
    for needed in itertools.islice(pages, max(0, rows)):
        if needed > free:
            break
        free -= needed
        joined += 1
    return joined


def pick(tokens: Sequence[int], *, budget: int) -> list[int]:
    """Indices of the rows that share the next forward: `tokens` is what each would hand to it, `budget` what it may hold.

    A row that does not fit is left out and those behind it may run, so the refreshes of long prompts take turns beside the
    block forwards of all others.

    >>> pick([32, 900, 900, 32], budget=1000)
    [0, 1, 3]
    """
    picked = []
    for index, cost in enumerate(tokens):
        if cost <= budget:
            budget -= cost
            picked.append(index)
    return picked
