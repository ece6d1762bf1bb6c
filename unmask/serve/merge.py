"""Several asynchronous streams as one."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class MergedStreams(Generic[T]):
    """The items of several streams as they come, each with the index of its stream.

        async with MergedStreams([first, second]) as merged:
            async for index, item in merged:
                ...

    Each stream is read by a task of its own; leaving the block closes all. An error of one is raised to the reader.
    """

    def __init__(self, streams: Iterable[AsyncIterator[T]]) -> None:
        self._streams = list(streams)
        self._unfinished = len(self._streams)
        self._queue: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue()  # None: a stream has ended
        self._tasks: list[asyncio.Task[None]] = []

    def fail(self, error: Exception) -> None:
        """Raise `error` to the reader after the items that are there already."""
        self._queue.put_nowait(error)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._read(*numbered)) for numbered in enumerate(self._streams)]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, T]:
        while self._unfinished:
            item = await self._queue.get()
            if isinstance(item, Exception):
                raise item
            if item is not None:
                return item
            self._unfinished -= 1
        raise StopAsyncIteration

    async def _read(self, index: int, stream: AsyncIterator[T]) -> None:
        try:
            async with aclosing(stream) as items:  # type: ignore[type-var]
                async for item in items:
                    self._queue.put_nowait((index, item))
            self._queue.put_nowait(None)
        except Exception as error:
            self._queue.put_nowait(error)
