"""Which replica has what a request begins with: pure, and without Ray. front.py makes the keys, routing.py looks them up.

The keys of a request say what its prompt's first 256, 512, 1024, ... bytes are. A request goes where the longest beginning
of it went last, unless that replica is much busier than another.
"""

import hashlib
import json
import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence

SHORTEST = 256  # bytes of a beginning that is worth going somewhere for
SHARES = "shares_prefixes"  # what replicas say of themselves: whether it is worth it at all
_KNOWN = 2**16  # keys that are remembered


def prefix_keys(body: bytes, authorization: str = "") -> list[str]:
    """The keys of a request's body, the shortest beginning's first; none where it has no prompt that long.

    Requests of different API keys have no key in common, as they share nothing.

    >>> chat = b'{"messages": [{"role": "user", "content": "%s"}]}'
    >>> [len(prefix_keys(chat % (b"a" * letters))) for letters in (10, 300, 900)]
    [0, 1, 2]
    """
    try:
        fields = json.loads(body)
    except ValueError:
        return []
    prompt = (fields.get("messages") or fields.get("prompt")) if isinstance(fields, dict) else None
    text = json.dumps(prompt).encode()
    found, begin, end = [], 0, SHORTEST
    digest = hashlib.blake2b(authorization.encode() + b"\0", digest_size=8)
    while end <= len(text):
        digest.update(text[begin:end])
        found.append(digest.hexdigest())
        begin, end = end, 2 * end
    return found


class Homes:
    """Where the beginnings of requests went last."""

    def __init__(self, *, slack: int) -> None:
        """`slack`: how many requests more than the least busy replica one may have and still be preferred."""
        self._slack = slack
        self._home: OrderedDict[str, str] = OrderedDict()  # least recently used first

    def choose(self, keys: Sequence[str], load: Mapping[str, int]) -> str:
        """The replica for a request with these keys, among those whose requests `load` counts; it is remembered."""
        least = min(load, key=lambda replica: (load[replica], random.random()))
        known = (self._home[key] for key in reversed(keys) if self._home.get(key) in load)
        chosen = next(known, least)
        if load[chosen] - load[least] > self._slack:
            chosen = least
        for key in keys:
            self._home[key] = chosen
            self._home.move_to_end(key)
        while len(self._home) > _KNOWN:
            self._home.popitem(last=False)
        return chosen
