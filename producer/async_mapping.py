"""`AsyncProducer.map`: a task takes inputs and submits them, the caller is handed outputs in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from foreseen.client.submission import Submission
from foreseen.errors import ForeseenError, InvalidInput
from producer.async_pending import AsyncPendingPrediction
from producer.mapping import TAKE_S, chunk_of, take

__all__ = ["AsyncMap"]

T = TypeVar("T")
#: Of one input: what it became, or why it cannot be submitted.
Asked: TypeAlias = AsyncPendingPrediction[Any] | InvalidInput

#: Inputs that are worked on in one pass of the loop, at about 25 µs each.
_SLICE: Final = 100


class AsyncMap:
    """One call of `map`.

    Args:
        inputs: taken when there is room.
        submit: asks for a chunk of them.
        leave: gives up what nobody waits for any more.
        in_flight: how many inputs may be taken and not yet answered.
    """

    def __init__(
        self,
        inputs: Iterable[Any] | AsyncIterable[Any],
        submit: Callable[[Sequence[Any]], Awaitable[Sequence[Asked]]],
        leave: Callable[[Iterable[Submission]], None],
        in_flight: int,
    ) -> None:
        self._inputs = inputs
        self._submit = submit
        self._leave = leave
        self._chunk = min(_SLICE, chunk_of(in_flight))
        self._room = asyncio.Semaphore(in_flight)
        self._asked: asyncio.Queue[Asked | None] = asyncio.Queue()  # bounded by the room; None is the end
        self._open: dict[AsyncPendingPrediction[Any], None] = {}

    async def outputs(
        self, timeout: float | None, *, return_exceptions: bool, progress: Callable[[int], object] | None
    ) -> AsyncGenerator[Any, None]:
        """Yield outputs in the order of their inputs; arguments as for `Producer.map`."""
        feeding = asyncio.get_running_loop().create_task(self._feed())
        done = 0
        try:
            while (asked := await self._asked.get()) is not None:
                output = await self._output(asked, timeout, return_exceptions=return_exceptions)
                self._room.release()
                done += 1
                if progress is not None:
                    progress(done)
                yield output
            await feeding  # raises what went wrong with the inputs, or with submitting them
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)  # what it raised has been told, or matters no more
            self._leave([pending.submission for pending in self._open])

    async def _feed(self) -> None:
        source = aiter(self._inputs) if isinstance(self._inputs, AsyncIterable) else iter(self._inputs)
        is_more = True
        try:
            while is_more:
                for _ in range(self._chunk):
                    await self._room.acquire()
                if isinstance(source, AsyncIterator):
                    taken, is_more = await _take(source, self._chunk)
                else:
                    taken, is_more = take(source, self._chunk)
                for _ in range(self._chunk - len(taken)):
                    self._room.release()
                for each in await self._submit(taken):
                    if isinstance(each, AsyncPendingPrediction):
                        self._open[each] = None
                    self._asked.put_nowait(each)
        finally:
            self._asked.put_nowait(None)

    async def _output(self, asked: Asked, timeout: float | None, *, return_exceptions: bool) -> Any:
        error: ForeseenError
        if isinstance(asked, InvalidInput):
            error = asked
        else:
            try:
                return await asked.result(timeout)
            except ForeseenError as failed:
                error = failed
            finally:
                del self._open[asked]
                if not asked.done():  # its timeout ran out, or the caller was cancelled
                    self._leave([asked.submission])
        if return_exceptions:
            return error
        raise error


async def _take(inputs: AsyncIterator[T], limit: int) -> tuple[list[T], bool]:
    """Take up to `limit` inputs, fewer if they come slowly; tell also whether there may be more."""
    taken: list[T] = []
    until = time.monotonic() + TAKE_S
    async for each in inputs:
        taken.append(each)
        if len(taken) >= limit or time.monotonic() >= until:
            return taken, True
    return taken, False
