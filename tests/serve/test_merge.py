"""Several streams as one: every item with its index, in each stream's order; nothing runs on after the block."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.serve.merge import MergedStreams


async def counting(items: int) -> AsyncGenerator[int, None]:
    for item in range(items):
        await asyncio.sleep(0)
        yield item


async def endless(closed: asyncio.Event) -> AsyncGenerator[int, None]:
    try:
        while True:
            await asyncio.sleep(0)
            yield 0
    finally:
        closed.set()


async def failing() -> AsyncGenerator[int, None]:
    yield 1
    raise MemoryError("too much")


@given(st.lists(st.integers(0, 5), max_size=5))
def test_every_item_comes_with_its_index_in_its_streams_order(lengths: list[int]) -> None:
    async def read() -> list[tuple[int, int]]:
        async with MergedStreams([counting(length) for length in lengths]) as merged:
            return [pair async for pair in merged]

    pairs = asyncio.run(read())
    for index, length in enumerate(lengths):
        assert [item for at, item in pairs if at == index] == list(range(length))
    assert len(pairs) == sum(lengths)


def test_leaving_the_block_closes_every_stream() -> None:
    async def read() -> list[bool]:
        closed = [asyncio.Event() for _ in range(3)]
        async with MergedStreams([endless(one) for one in closed]) as merged:
            for _ in range(9):  # by then all have begun
                await anext(merged)
        assert len(asyncio.all_tasks()) == 1
        return [one.is_set() for one in closed]

    assert all(asyncio.run(read()))


def test_an_error_of_one_stream_is_raised_and_ends_the_others() -> None:
    closed = asyncio.Event()

    async def read() -> None:
        async with MergedStreams([endless(closed), failing()]) as merged:
            async for _ in merged:
                pass

    with pytest.raises(MemoryError, match="too much"):
        asyncio.run(read())
    assert closed.is_set()


def test_an_error_from_outside_comes_after_the_items_before_it() -> None:
    items: list[tuple[int, int]] = []

    async def read() -> None:
        async with MergedStreams([endless(asyncio.Event())]) as merged:
            items.append(await anext(merged))
            merged.fail(TimeoutError())
            async for item in merged:
                items.append(item)

    with pytest.raises(TimeoutError):
        asyncio.run(read())
    assert set(items) == {(0, 0)}


def test_without_streams_there_is_nothing_to_wait_for() -> None:
    async def read() -> list[tuple[int, int]]:
        async with MergedStreams[int]([]) as merged:
            return [item async for item in merged]

    assert asyncio.run(read()) == []
