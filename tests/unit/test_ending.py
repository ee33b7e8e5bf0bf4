"""A task is ended, even if what it awaits takes a cancellation for none."""

from __future__ import annotations

import asyncio

import pytest

from foreseen.ending import end


async def sleep_on(swallowed: int) -> None:
    """Sleep, and go on after so many cancellations, as `asyncio.wait_for` does on Python 3.11."""
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            swallowed -= 1
            if swallowed < 0:
                raise


@pytest.mark.parametrize("swallowed", [0, 1])
def test_it_ends_however_many_cancellations_are_swallowed(swallowed: int) -> None:
    async def run() -> None:
        task = asyncio.create_task(sleep_on(swallowed))
        await asyncio.sleep(0)
        await asyncio.wait_for(end(task), 20)
        assert task.cancelled()

    asyncio.run(run())


def test_one_that_has_failed_is_left() -> None:
    async def fail() -> None:
        raise ValueError

    async def run() -> None:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        await asyncio.wait_for(end(task), 20)
        assert isinstance(task.exception(), ValueError)

    asyncio.run(run())
