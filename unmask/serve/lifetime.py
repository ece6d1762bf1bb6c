"""When work for a client ends early: its time is over, or the client has left."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")
_GRACE = 2.0  # seconds that a client has to read the last event of a stream whose time is over


@contextmanager
def deadline(seconds: float, expire: Callable[[], None]) -> Iterator[None]:
    """Call `expire` if the block is not left after `seconds`, and cancel the task if the block goes on even then.

    Two timers for the whole block: a timeout around each item of a stream costs a third of what the item costs.

    Args:
        seconds: from now.
        expire: ends the block as an error would. It cannot where the task waits for a client that reads no more;
            cancelling the task can.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    timers = [loop.call_later(seconds, expire), loop.call_later(seconds + _GRACE, task.cancel)]
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


async def while_connected(http: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client leaves first.

    Raises what `work` raises, and ClientDisconnect.
    """
    task, disconnect = asyncio.create_task(work), asyncio.create_task(_disconnect(http))
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for one in (task, disconnect):
            one.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _disconnect(http: Request) -> None:
    """Return when the client has left."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
