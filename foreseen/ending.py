"""The end of a task that has none by itself."""

from __future__ import annotations

import asyncio
from typing import Any, Final

__all__ = ["end"]

#: Until it is asked again: longer than what it does on its way out.
_PATIENCE_S: Final = 1.0


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended; what it raises is dropped.

    Once is not enough: on Python 3.11 `asyncio.wait_for`, with which redis-py bounds what it does, takes a cancellation
    that comes in the same turn of the loop as its result for none.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_PATIENCE_S)
