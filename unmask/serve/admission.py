"""Admission of requests: a bounded number of choices may wait for the engine, and further requests get a 429."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from unmask.serve.errors import QueueFull
from unmask.serve.requests import ApiRequest


class Admission:
    """The choices that were admitted and have no completion yet.

    Args:
        limit: choices that may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._mean_seconds = 1.0  # from request to completion, an exponential mean
        # Choices without a completion of each admitted request. The keys are weak: a request that is given up
        # between its admission and its first progress has no block to leave, and leaves with its last reference.
        self._open: WeakKeyDictionary[ApiRequest, int] = WeakKeyDictionary()

    @property
    def open(self) -> int:
        """Choices without a completion, decoding or not."""
        return sum(self._open.values())

    def waiting(self, running: int) -> int:
        """Choices that wait, given how many the engine decodes.

        A choice counts from its admission on, although it reaches the engine only when its response begins: so
        requests of the same moment see each other.
        """
        return max(0, self.open - running)

    def is_full(self, running: int) -> bool:
        return self.waiting(running) >= self._limit

    def admit(self, request: ApiRequest, running: int) -> None:
        """Count the request's choices from now on. Raises QueueFull where too many wait."""
        waiting = self.waiting(running)
        if waiting + len(request.choices) > self._limit:
            raise QueueFull(waiting, max(1, math.ceil(self._mean_seconds)))
        self._open[request] = len(request.choices)

    @contextmanager
    def held(self, request: ApiRequest) -> Iterator[None]:
        """Until the block is left the request's choices count, those with a completion excepted."""
        try:
            yield
        finally:
            del self._open[request]

    def complete(self, request: ApiRequest) -> None:
        """One of the request's choices has its completion."""
        self._open[request] -= 1

    def took(self, seconds: float) -> None:
        """How long a completion took, for Retry-After."""
        self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
