"""The asynchronous face: the same engine, awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

from foreseen.client.aio import AsyncClient
from foreseen.client.submission import DEFAULT_IN_FLIGHT, DEFAULT_PRIORITY, DEFAULT_TIMEOUT_S, Submission
from foreseen.errors import ForeseenError, InvalidInput, PredictionTimeout, ProducerClosed, WrongLoop
from foreseen.flights import Kind
from foreseen.keys import Key
from foreseen.message import MAX_PRIORITY
from foreseen.outage import Outages
from foreseen.settings import Settings
from foreseen.tags import Tags
from producer.async_pending import AsyncPendingPrediction
from producer.pending import as_it_travels, value_of

if TYPE_CHECKING:
    from typing import Unpack

    from foreseen.near_cache import NearCache
    from producer.handle import AsyncModelHandle, Options

__all__ = ["AsyncProducer"]

T = TypeVar("T")

#: Work of this producer's calls in one pass of the loop; what comes beyond waits for the next, so that a thousand calls
#: that start at once do not hold up everything else.
_TURN_S: Final = 0.003
#: Inputs of one call that are worked on in one pass, at about 25 µs each.
_SLICE: Final = 100


class AsyncProducer:
    """Submits prediction tasks from an event loop, which it never blocks.

    It opens at its first use, and belongs to the loop of that use from then on: one connection to the cache, on which
    the calls of all tasks travel together, one for outcomes, and a thread that publishes.

    A task that is cancelled while it awaits `predict` leaves: what has not begun and nobody else wants is dropped. What
    `submit` has promised is computed whatever becomes of the task.

    Args:
        settings: of the deployment; read from `FORESEEN_*` if not given.

    Example:
        >>> async with AsyncProducer() as producer:
        ...     label = await producer.predict("file-type", data)
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._client: AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Task[AsyncClient] | None = None
        self._closed = False
        self._turn_began: float | None = None

    # --- asking -------------------------------------------------------------------------------------------------------

    async def predict(
        self,
        model: str,
        data: Any,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        expiry_s: float | None = None,
        refresh: bool = False,
        tags: Tags = (),
    ) -> Any:
        """Submit an input and wait for its prediction; a hit takes one round trip, one in the near cache none.

        Arguments, result and errors are those of `Producer.predict`.
        """
        client = self._at_once() or await self._open()
        engine = client.engine
        found = engine.catalog.version(model)
        if found is None:
            found = await client.run(engine.find(model))
        is_plain = expiry_s is None and tags == () and not refresh
        if engine.shortcut is not None and is_plain and 0 <= priority <= MAX_PRIORITY:
            kept = engine.shortcut.look(found, data)
            if kept is not None:
                return value_of(kept)
        submission = engine.inputs.submission(
            found, data, Kind.WAITER,
            priority=priority, deadline_s=deadline_s, expiry_s=expiry_s, refresh=refresh, tags=tags,
            bare="@" not in model,
        )  # fmt: skip
        if timeout is not None and engine.minds_patience:
            submission.patient_until = time.monotonic() + timeout
        try:
            await client.submit(submission)
            if submission.answer is not None:
                return value_of(submission.answer)
            pending: AsyncPendingPrediction[Any] = AsyncPendingPrediction(submission, client)
            try:
                return await pending.result(timeout)
            except BaseException:
                engine.leave_soon([submission], PredictionTimeout("the caller left"))  # if there was no outcome
                raise
            finally:
                del pending
        finally:
            del submission  # it keeps its error, which has this frame in its traceback

    async def submit(
        self,
        model: str,
        data: Any,
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        expiry_s: float | None = None,
        refresh: bool = False,
        tags: Tags = (),
    ) -> AsyncPendingPrediction[Any]:
        """Submit an input; it is computed whether or not anybody waits, ended only by `cancel()` or its deadline.

        Arguments and errors are those of `Producer.submit`.
        """
        return await self._submit(
            model, data, as_it_travels,
            priority=priority, deadline_s=deadline_s, expiry_s=expiry_s, refresh=refresh, tags=tags,
        )  # fmt: skip

    async def submit_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        expiry_s: float | None = None,
        refresh: bool = False,
        tags: Tags = (),
    ) -> list[AsyncPendingPrediction[Any]]:
        """Submit inputs, as `submit` each: look-ups share round trips, and misses messages of a batch each.

        Result and errors are those of `Producer.submit_many`; an input without a canonical form is found before
        anything is queued.
        """
        return await self._submit_many(
            model, inputs, as_it_travels,
            priority=priority, deadline_s=deadline_s, expiry_s=expiry_s, refresh=refresh, tags=tags,
        )  # fmt: skip

    async def map(
        self,
        model: str,
        inputs: Iterable[Any] | AsyncIterable[Any],
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        expiry_s: float | None = None,
        refresh: bool = False,
        tags: Tags = (),
        in_flight: int = DEFAULT_IN_FLIGHT,
        return_exceptions: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Yield the output of each input, in order and in bounded memory, however many inputs there are.

        Arguments and errors are those of `Producer.map`; the inputs may also be awaited ones. Close the iterator
        (`contextlib.aclosing`) to stop early: it leaves what is open.
        """
        from producer.async_mapping import AsyncMap
        from producer.mapping import prepare

        client = await self._open()
        found = await client.run(client.engine.find(model))
        options: Options = {
            "priority": priority, "deadline_s": deadline_s, "expiry_s": expiry_s, "refresh": refresh, "tags": tags,
        }  # fmt: skip

        async def submit(taken: Sequence[Any]) -> list[AsyncPendingPrediction[Any] | InvalidInput]:
            await self._take_turn()
            prepared = prepare(client.engine, found, taken, options, bare="@" not in model)
            await client.run(client.engine.submit([each for each in prepared if isinstance(each, Submission)]))
            return [
                AsyncPendingPrediction[Any](each, client) if isinstance(each, Submission) else each for each in prepared
            ]

        def leave(submissions: Iterable[Submission]) -> None:
            client.engine.leave_soon(submissions, PredictionTimeout("the caller left"))

        mapped = AsyncMap(inputs, submit, leave, in_flight)
        outputs = mapped.outputs(timeout, return_exceptions=return_exceptions, progress=progress)
        async with aclosing(outputs):
            async for output in outputs:
                yield output

    @overload
    def model(self, name: str, *, tags: Tags = ()) -> AsyncModelHandle[Any]: ...
    @overload
    def model(self, name: str, *, output: type[T], tags: Tags = ()) -> AsyncModelHandle[T]: ...
    def model(self, name: str, *, output: Any = Any, tags: Tags = ()) -> AsyncModelHandle[Any]:
        """Return a handle on a model, whose outputs come as instances of `output`; as `Producer.model`."""
        from producer.handle import AsyncModelHandle

        return AsyncModelHandle(self, name, output, tags)

    async def pending(self, key: str) -> AsyncPendingPrediction[Any]:
        """Attach to a prediction by its key, from any process; never enqueues. Errors as for `Producer.pending`."""
        return await self._attach(key, as_it_travels)

    # --- entries ------------------------------------------------------------------------------------------------------

    async def peek(self, model: str, data: Any) -> Any:
        """Return the cached output, or None; never computes. Errors are those of `Producer.peek`."""
        client = await self._open()
        key = await client.run(client.engine.key(model, client.engine.inputs.canonical(data)))
        outcome = await client.run(client.engine.peek(key))
        return None if outcome is None else value_of(outcome)

    async def invalidate(self, model: str, data: Any) -> bool:
        """Forget one input's entry; computations under way cannot bring it back. True if there was an entry."""
        client = await self._open()
        key = await client.run(client.engine.key(model, client.engine.inputs.canonical(data)))
        return await client.run(client.engine.invalidate(key))

    async def invalidate_tag(self, tag: str) -> int:
        """Forget the entries of all inputs that were submitted with a tag, as `Producer.invalidate_tag`."""
        client = await self._open()
        return await client.run(client.engine.invalidate_tag(tag))

    async def purge(self, model: str) -> int:
        """Forget every entry of `name@version`, or of all versions of `name`; return how many versions that were."""
        client = await self._open()
        return await client.run(client.engine.purge(model))

    # --- life ---------------------------------------------------------------------------------------------------------

    async def outages(self) -> Outages:
        """Return what this process has counted of the cache's troubles since the producer opened; asks nobody."""
        client = await self._open()
        return client.outage.told(client.engine.direct.sent)

    async def near_cache(self) -> NearCache:
        """Return what this process keeps near, and what was counted of it since the producer opened; asks nobody."""
        from foreseen.near_cache import NearCache

        near = (await self._open()).engine.near
        return NearCache() if near is None else near.told()

    async def close(self) -> None:
        """End open pendings with `ProducerClosed` and close connections; what was submitted is still computed.

        Raises:
            WrongLoop: it belongs to another loop.
        """
        self._check_loop()
        self._closed = True
        if self._opening is not None:
            with suppress(ForeseenError):
                await asyncio.shield(self._opening)
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _at_once(self) -> AsyncClient | None:
        """Return the client if there is nothing to wait for: a coroutine less, or two, on the way of most calls."""
        client, began = self._client, self._turn_began
        if began is None or client is None or self._loop is not asyncio.get_running_loop():
            return None
        return client if time.monotonic() - began <= _TURN_S else None

    async def _open(self) -> AsyncClient:
        self._check_loop()
        await self._take_turn()
        if self._client is not None:
            return self._client
        if self._closed:
            raise ProducerClosed("The producer is closed; make another one.")
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._start())
        return await asyncio.shield(self._opening)  # others wait for it too

    async def _start(self) -> AsyncClient:
        client = AsyncClient(self._settings or Settings())
        try:
            await client.open()
        except BaseException:
            await client.close()
            raise
        else:
            self._client = client
        finally:
            self._opening = None
        return client

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise WrongLoop(
                "This AsyncProducer belongs to the event loop that first used it: make one for each loop, or use "
                "Producer, which is safe for threads."
            )

    async def _take_turn(self) -> None:
        """Return at once, unless calls of this producer have worked for long in this pass of the loop."""
        while self._turn_began is not None and time.monotonic() - self._turn_began > _TURN_S:
            await self._next_pass()
        if self._turn_began is None:
            self._turn_began = time.monotonic()
            asyncio.get_running_loop().call_soon(self._end_turn)

    @staticmethod
    async def _next_pass() -> None:
        await asyncio.sleep(0)

    def _end_turn(self) -> None:
        self._turn_began = None

    async def _submit(
        self, model: str, data: Any, convert: Callable[[Any], T], **options: Unpack[Options]
    ) -> AsyncPendingPrediction[T]:
        client = await self._open()
        found = await client.run(client.engine.find(model))
        submission = client.engine.inputs.submission(found, data, Kind.DETACHED, bare="@" not in model, **options)
        await client.submit(submission)
        if isinstance(submission.answer, Exception):
            raise submission.answer
        return AsyncPendingPrediction(submission, client, convert)

    async def _attach(self, key: str, convert: Callable[[Any], T]) -> AsyncPendingPrediction[T]:
        client = await self._open()
        submission = Submission(Key.parse(key), None, Kind.WAITER)
        await client.submit(submission)
        if isinstance(submission.answer, Exception):
            raise submission.answer
        return AsyncPendingPrediction(submission, client, convert)

    async def _submit_many(
        self, model: str, inputs: Iterable[Any], convert: Callable[[Any], T], **options: Unpack[Options]
    ) -> list[AsyncPendingPrediction[T]]:
        client = await self._open()
        found = await client.run(client.engine.find(model))
        submissions: list[Submission] = []
        for data in inputs:
            if len(submissions) % _SLICE == 0:
                await self._take_turn()
            submissions.append(
                client.engine.inputs.submission(found, data, Kind.DETACHED, bare="@" not in model, **options)
            )
        pendings: list[AsyncPendingPrediction[T]] = []
        for start in range(0, len(submissions), _SLICE):
            await self._take_turn()
            part = submissions[start : start + _SLICE]
            await client.run(client.engine.submit(part))
            pendings += [AsyncPendingPrediction(submission, client, convert) for submission in part]
        return pendings
