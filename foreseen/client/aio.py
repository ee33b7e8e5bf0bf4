"""The engine on an event loop: its effects awaited, its inbox heard by a task.

Nothing here blocks the loop: messages are published on a thread of their own, and what is to be published while it
works gathers and goes together.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis.exceptions import RedisError

from foreseen.async_cache import AsyncCache
from foreseen.broker import Publisher
from foreseen.client.asking import CHUNK
from foreseen.client.effects import Ask, Effect, HearReplies, Pause, Read, Send, Steps
from foreseen.client.engine import Engine
from foreseen.client.listening import FIRST_RETRY_S, LAST_RETRY_S, TICK_S
from foreseen.client.reading import NOTHING
from foreseen.client.reply_listener import ReplyListener
from foreseen.client.shipping import Shipped, Shipping
from foreseen.client.submission import Submission
from foreseen.ending import end
from foreseen.errors import CacheUnavailable, ForeseenError
from foreseen.outage import Outage
from foreseen.settings import Settings

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

    from foreseen.client.aio_tracking import AsyncNodesTracking, AsyncTracking
    from foreseen.client.events import Sender

__all__ = ["AsyncClient"]

T = TypeVar("T")
log = logging.getLogger("foreseen.client")

#: Pushes are handed out for this long before other tasks have their turn.
_TURN_S: Final = 0.005


class AsyncClient:
    """Runs an engine's steps as coroutines of one event loop.

    Args:
        settings: of the deployment.
    """

    def __init__(self, settings: Settings) -> None:
        self.engine = Engine(settings)
        self._settings = settings
        self._cache = AsyncCache(settings, breaks=True)
        self._shipping = _OwnThread(settings)
        self._tracking: AsyncNodesTracking | AsyncTracking | None = None
        if self.engine.near is not None:
            from foreseen.client.aio_tracking import AsyncNodesTracking, AsyncTracking
            from foreseen.client.tracking import Tracked

            near, space = self.engine.near, self.engine.space
            is_one = self._cache.nodes() == (None,)
            self._tracking = (
                AsyncTracking(Tracked(near, space), self._cache, settings)
                if is_one
                else AsyncNodesTracking(near, space, self._cache, settings)
            )
        self._events: Sender | None = None
        if self.engine.watch is not None and self.engine.watch.events is not None:
            from foreseen.client.events import Sender

            self._events = Sender(settings, self.engine.watch.events)
        self._listening = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        self._replies = ReplyListener(settings, self.engine.direct.queue, self._on_reply)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._moves = 0  # of the cache, when the inbox was opened
        self._refreshed_at = self._ticked_at = time.monotonic()

    async def open(self) -> None:
        """Start to listen; returns once pushes can arrive, or raises `CacheUnavailable`."""
        await self._cache.commands([("PING",)])
        if self._tracking is not None:
            self._tracking.start()
        if self._events is not None:
            self._events.start()
        self._loop = asyncio.get_running_loop()
        self._listener = self._loop.create_task(self._run_listener(), name="foreseen-listener")
        with suppress(TimeoutError):  # a look would find the answer too
            await asyncio.wait_for(self._listening.wait(), self._settings.connect_timeout_s)

    @property
    def outage(self) -> Outage:
        """What is known of the cache server's troubles."""
        return self._cache.outage

    async def run(self, steps: Steps[T]) -> T:
        """Run steps to their end and return what they return."""
        try:
            effect = next(steps)
            while True:
                try:
                    result = await self._do(effect)
                except BaseException as error:  # noqa: BLE001 - the steps decide what an error means
                    effect = steps.throw(error)
                else:
                    effect = steps.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def submit(self, submission: Submission) -> None:
        """Run `Engine.submit_one`; a hit, without a near cache, goes without steps."""
        engine = self.engine
        command = engine.reads(submission) if engine.near is None else None
        if command is None:
            await self.run(engine.submit_one(submission))
            return
        try:
            (reply,) = await self._cache.commands((command,))
        except CacheUnavailable:  # which the look-up will find out, too
            reply = NOTHING
        if not engine.is_read(submission, reply):
            await self.run(engine.submit_unread(submission))

    async def close(self) -> None:
        """Flush marks, end what is open, stop listening, close connections."""
        with suppress(ForeseenError):  # a server that is gone cannot be told, and everybody here is
            await self.run(self.engine.close())
        if self._tracking is not None:
            await self._tracking.stop()
        if self._listener is not None:
            await end(self._listener)
        await self._shipping.run(self._replies.close)
        if self._events is not None:
            await self._shipping.run(self._events.close)
        await self._shipping.close()
        await self._cache.close()

    def _do(self, effect: Effect) -> Awaitable[Any]:
        match effect:
            case Read(commands):  # first what there is most of
                return self._cache.commands(commands)
            case Ask(calls):
                return self._cache.run(calls)
            case Send():
                return self._shipping.send(effect)
            case HearReplies():
                return self._shipping.run(self._replies.open)
            case Pause(seconds):
                return asyncio.sleep(seconds)

    def _on_reply(self, push: bytes) -> None:
        """Hand a reply over to the loop, where everything else happens."""
        assert self._loop is not None  # noqa: S101 - for the type checker: nothing is asked before it is open
        with suppress(RuntimeError):  # closed meanwhile, and everybody told
            self._loop.call_soon_threadsafe(self.engine.on_push, push)

    # --- listening ----------------------------------------------------------------------------------------------------

    async def _run_listener(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            pubsub = self._cache.pubsub(health_check_s=self._settings.lease_s / 2)
            try:
                await self._look_and_refresh()  # who cannot hear, while it is lost again and again, can still look
                self._moves = self._cache.moves
                await self._subscribe(pubsub)
                self._listening.set()
                self.engine.table.everybody_looks_now()  # what was pushed meanwhile is lost
                retry_s = FIRST_RETRY_S
                await self._listen(pubsub)
            except (RedisError, OSError) as error:
                # Nobody loses an outcome by it, and that the cache is away is said by who asks it something.
                log.debug("inbox lost, opening it again in %.2f s: %s", retry_s, error)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)
            except Exception:  # a defect here must not leave everybody waiting for ever
                log.exception("listener failed, starting over")
                await asyncio.sleep(LAST_RETRY_S)
            finally:
                with suppress(RedisError, OSError):
                    await pubsub.aclose()
                    await pubsub.connection_pool.disconnect()

    async def _subscribe(self, pubsub: PubSub) -> None:
        """Subscribe, and wait until the server has confirmed it: from then on no push passes unheard."""
        async with asyncio.timeout(self._settings.connect_timeout_s + self._settings.reply_timeout_s):
            await pubsub.subscribe(self.engine.inbox)
            while True:
                message = await pubsub.get_message(timeout=None)
                if message is not None and message["type"] == "subscribe":
                    return

    async def _listen(self, pubsub: PubSub) -> None:
        while True:
            due = self.engine.table.next_due()
            wait_s = TICK_S if due is None else min(TICK_S, max(0.0, due - time.monotonic()))
            message = await pubsub.get_message(timeout=wait_s)
            turn_began = time.monotonic()
            while message is not None:
                if message["type"] == "message" and isinstance(message["data"], bytes):
                    self.engine.on_push(message["data"])
                if time.monotonic() - turn_began > _TURN_S:
                    await asyncio.sleep(0)
                    turn_began = time.monotonic()
                message = await pubsub.get_message(timeout=0)
            await self._look_and_refresh()
            if self._moves != self._cache.moves:
                raise ConnectionError("another server has taken the cache's place")

    async def _look_and_refresh(self) -> None:
        engine = self.engine
        try:
            if submissions := engine.table.due(time.monotonic(), CHUNK):
                await self.run(engine.look(submissions))
            if time.monotonic() - self._ticked_at >= TICK_S:  # not on the way of an answer
                self._ticked_at = time.monotonic()
                await self.run(engine.tick())
            if time.monotonic() - self._refreshed_at > self._settings.card_refresh_s:
                self._refreshed_at = time.monotonic()
                await self.run(engine.refresh())
        except CacheUnavailable:  # which is said once, and not at each look
            await asyncio.sleep(FIRST_RETRY_S)
        except ForeseenError as error:
            log.warning("looking again failed, trying soon: %s", error)
            await asyncio.sleep(FIRST_RETRY_S)


class _OwnThread:
    """Publishes on a thread of its own; what is to be published while it works gathers, and goes together."""

    def __init__(self, settings: Settings) -> None:
        self._publisher = Publisher(settings)
        self._shipping = Shipping(settings, self._publisher)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="foreseen-publisher")
        self._waiting: list[tuple[Send, asyncio.Future[frozenset[str]]]] = []
        self._publishing: asyncio.Task[None] | None = None

    async def send(self, send: Send) -> frozenset[str]:
        """Publish items; when it returns, the broker has them, but for those returned: their queue is full.

        Raises:
            BrokerUnavailable: it does not answer; some may have been sent, and sending them again does no harm.
        """
        loop = asyncio.get_running_loop()
        sent: asyncio.Future[frozenset[str]] = loop.create_future()
        self._waiting.append((send, sent))
        if self._publishing is None:
            self._publishing = loop.create_task(self._publish_all())
        return await sent

    async def run(self, what: Callable[[], T]) -> T:
        """Do something on that thread that blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, what)

    async def close(self) -> None:
        """Send what waits, then close connections."""
        if self._publishing is not None:
            await asyncio.wait([self._publishing])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._publisher.close)
        self._thread.shutdown(wait=False)

    async def _publish_all(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                shipped: Sequence[Shipped | Exception]
                try:
                    run = asyncio.get_running_loop().run_in_executor
                    shipped = await run(self._thread, self._shipping.ship, [send for send, _ in waiting])
                except Exception as failed:  # noqa: BLE001 - each who waits is told, whatever it is
                    shipped = [failed] * len(waiting)
                for (_, sent), told in zip(waiting, shipped, strict=True):
                    if sent.done():  # its task was cancelled
                        continue
                    if isinstance(told, Exception):
                        sent.set_exception(told)
                    else:
                        sent.set_result(told)
        finally:
            self._publishing = None
