"""A prediction that is under way, as something to await."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from foreseen.client.aio import AsyncClient
from foreseen.client.submission import Answer, Submission
from foreseen.errors import ForeseenError, PredictionTimeout
from producer.pending import Submitted, as_it_travels, value_of

__all__ = ["AsyncPendingPrediction"]

T = TypeVar("T")


class AsyncPendingPrediction(Submitted, Generic[T]):
    """What `AsyncProducer.submit` returns: await it, attach callbacks, or cancel it.

    Any number of tasks may await it; cancelling one of them cancels nothing else.
    """

    def __init__(
        self, submission: Submission, client: AsyncClient, convert: Callable[[Any], T] = as_it_travels
    ) -> None:
        super().__init__(submission)
        self._client = client
        self._convert = convert
        self._values: list[T] = []  # one, once somebody has asked for it
        # Without the outcome in it: asyncio complains of an exception that nobody has asked for.
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client.engine.table.watch(submission, self._end)

    def done(self) -> bool:
        """Tell whether there is an outcome, or it was cancelled."""
        return self._ended.done()

    def cancelled(self) -> bool:
        """Tell whether it was cancelled."""
        return self._ended.cancelled()

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the outcome, however long that takes."""
        return self.result().__await__()

    async def result(self, timeout: float | None = None) -> T:
        """Wait for the outcome and return its value.

        Args:
            timeout: seconds; None waits until there is an outcome. Running out leaves the prediction pending.

        Raises:
            PredictionTimeout: the timeout ran out; call again to go on waiting.
            PredictionFailed: the outcome is a failure.
            ProducerClosed: the producer was closed meanwhile.
            asyncio.CancelledError: it was cancelled.
        """
        if not self._ended.done():
            await asyncio.wait([self._ended], timeout=timeout)  # leaves it alone when this task is cancelled
            if not self._ended.done():
                assert timeout is not None  # noqa: S101 - for the type checker: without one it has ended
                raise self._timed_out(timeout)
        self._ended.result()  # raises if it was cancelled
        assert self._submission.answer is not None  # noqa: S101 - for the type checker
        try:
            if not self._values:
                self._values.append(self._convert(value_of(self._submission.answer)))
            return self._values[0]
        finally:
            del self  # it keeps its error, which has this frame in its traceback

    async def exception(self, timeout: float | None = None) -> ForeseenError | None:
        """Wait for the outcome and return its error, None for a result; `timeout` as for `result`."""
        try:
            await self.result(timeout)
        except ForeseenError as error:
            if not self._ended.done():
                raise  # the timeout
            return error
        return None

    def add_done_callback(self, called: Callable[[AsyncPendingPrediction[T]], object]) -> None:
        """Call `called` with this, on the loop, once there is an outcome or it was cancelled."""
        self._ended.add_done_callback(lambda _: called(self))

    async def cancel(self) -> bool:
        """Leave: it counts no longer as wanting the prediction; others who want it still get it.

        Returns:
            False if there was an outcome already.

        Raises:
            CacheUnavailable: it is cancelled here, but the cache could not be told: it may still be computed.
        """
        if not self._ended.cancel():
            return self._ended.cancelled()
        await self._client.run(self._client.engine.leave(self._submission, PredictionTimeout("cancelled")))
        return True

    def _end(self, _: Answer) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
