"""Work for a client ends early at its deadline, also if the client reads no more, and when the client leaves."""

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from unmask.serve import lifetime
from unmask.serve.lifetime import deadline, while_connected


def connection(leaves_after: float) -> Request:
    """A request whose client leaves after so many seconds."""

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(leaves_after)
        return {"type": "http.disconnect"}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


def test_a_block_that_ends_in_time_is_not_disturbed() -> None:
    async def work() -> list[str]:
        calls: list[str] = []
        with deadline(0.01, lambda: calls.append("expired")):
            pass
        await asyncio.sleep(0.05)
        return calls

    assert asyncio.run(work()) == []


def test_a_block_learns_that_its_time_is_over() -> None:
    async def work() -> bool:
        expired = asyncio.Event()
        with deadline(0.01, expired.set):
            return await asyncio.wait_for(expired.wait(), 10)

    assert asyncio.run(work())


def test_a_block_that_does_not_end_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it waits for a client that reads no more."""
    monkeypatch.setattr(lifetime, "_GRACE", 0.01)

    async def work() -> None:
        with deadline(0.01, lambda: None):
            await asyncio.sleep(60)

    async def main() -> bool:
        task = asyncio.create_task(work())
        await asyncio.wait({task}, timeout=10)
        return task.cancelled()

    assert asyncio.run(main())


def test_work_ends_with_its_result_while_the_client_stays() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert asyncio.run(while_connected(connection(60), work())) == 7


def test_work_that_fails_raises_what_it_raised() -> None:
    async def work() -> int:
        raise MemoryError("too much")

    with pytest.raises(MemoryError, match="too much"):
        asyncio.run(while_connected(connection(60), work()))


def test_work_is_cancelled_where_the_client_leaves() -> None:
    async def main() -> bool:
        cancelled = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

        with pytest.raises(ClientDisconnect):
            await while_connected(connection(0.01), work())
        return cancelled.is_set() and len(asyncio.all_tasks()) == 1

    assert asyncio.run(main())
