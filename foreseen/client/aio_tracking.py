"""The same connection on an event loop: heard by a task."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from hiredis import PushNotification
from redis.exceptions import RedisError

from foreseen.async_cache import AsyncCache
from foreseen.client.listening import LAST_RETRY_S
from foreseen.client.near import Near
from foreseen.client.several import NODES_LOOKED_AT_S, Several
from foreseen.client.tracking import PING_S, RESP3, Tracked
from foreseen.ending import end
from foreseen.errors import CacheUnavailable
from foreseen.keys import KeySpace
from foreseen.nodes import Node
from foreseen.parcels import Command
from foreseen.settings import Settings

__all__ = ["AsyncNodesTracking", "AsyncTracking"]

log = logging.getLogger("foreseen.client")

#: What comes is taken in for this long before other tasks have their turn.
_TURN_S: Final = 0.005


class AsyncTracking:
    """Keeps the connection open, and pings.

    Args:
        tracked: takes in what comes.
        cache: knows where the server is.
        settings: bounds on waiting for it.
        node: of a cluster.
    """

    def __init__(self, tracked: Tracked, cache: AsyncCache, settings: Settings, node: Node | None = None) -> None:
        self._tracked = tracked
        self._cache = cache
        self._pool = cache.pool(node, **RESP3)
        self._settings = settings
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the near cache is on once the server has confirmed."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="foreseen-near")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            await end(self._task)

    async def _run(self) -> None:
        try:
            while True:
                connection: Any = self._pool.make_connection()
                connection._parser.set_invalidation_push_handler(_hand_on)  # noqa: SLF001 - there is no other way to it
                pause_s = 0.0
                try:
                    await self._track(connection)
                except (RedisError, OSError) as error:
                    pause_s = self._tracked.lost(error)
                except Exception as error:  # a defect here must not leave the near cache on
                    log.exception("following the cache server's changes failed, starting over")
                    self._tracked.lost(error)
                    pause_s = LAST_RETRY_S
                finally:
                    with suppress(RedisError, OSError):
                        await connection.disconnect(nowait=True)
                await asyncio.sleep(pause_s)
        finally:
            self._tracked.near.lost()

    async def _track(self, connection: Any) -> None:
        moves = self._cache.moves
        async with asyncio.timeout(self._settings.connect_timeout_s + self._settings.reply_timeout_s):
            await connection.connect()
            await self._say(connection, self._tracked.begin)
            while isinstance(await connection.read_response(push_request=True), PushNotification):
                pass  # of before it was confirmed
        self._tracked.begun()
        while True:
            if moves != self._cache.moves:
                raise ConnectionError("another server has taken the cache's place")
            sent_at = time.monotonic()
            await self._say(connection, self._tracked.ping)
            if not await self._hear(connection, sent_at, self._settings.reply_timeout_s, until_answered=True):
                raise TimeoutError(f"no reply within {self._settings.reply_timeout_s:g} s")
            await self._hear(connection, sent_at, PING_S, until_answered=False)

    async def _hear(self, connection: Any, sent_at: float, for_s: float, *, until_answered: bool) -> bool:
        """Take in what comes, for as long from then; True if that was the answer to a ping."""
        turn_began = time.monotonic()
        while (left_s := sent_at + for_s - time.monotonic()) > 0:
            message = await connection.read_response(timeout=left_s, push_request=True)
            if message is not None and self._tracked.takes(message, sent_at) and until_answered:
                return True
            if time.monotonic() - turn_began > _TURN_S:
                await asyncio.sleep(0)
                turn_began = time.monotonic()
        return False

    @staticmethod
    async def _say(connection: Any, command: Command) -> None:
        await connection.send_command(*command, check_health=False)


class AsyncNodesTracking:
    """Keeps a connection open to each master of a cluster, and follows the masters.

    Args:
        near: is told.
        space: where the keys are.
        cache: knows where the nodes are.
        settings: bounds on waiting for them.
    """

    def __init__(self, near: Near, space: KeySpace, cache: AsyncCache, settings: Settings) -> None:
        self._near = near
        self._space = space
        self._cache = cache
        self._settings = settings
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the near cache is on once all have confirmed."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="foreseen-near-nodes")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            await end(self._task)

    async def _run(self) -> None:
        while True:
            try:
                await self._cache.look_at_nodes()
                await self._follow(self._cache.moves, self._cache.masters())
            except CacheUnavailable:
                await asyncio.sleep(LAST_RETRY_S)
            except Exception:  # a defect here must not leave the near cache on
                log.exception("following the cluster's masters failed, starting over")
                await asyncio.sleep(LAST_RETRY_S)

    async def _follow(self, moves: int, masters: Sequence[Node]) -> None:
        """Track these masters, of after so many moves, until there are others."""
        several = Several(self._near, len(masters))
        trackings = [
            AsyncTracking(Tracked(member, self._space), self._cache, self._settings, node)
            for member, node in zip(several.members, masters, strict=True)
        ]
        try:
            for tracking in trackings:
                tracking.start()
            while moves == self._cache.moves:
                await asyncio.sleep(NODES_LOOKED_AT_S)
                with suppress(CacheUnavailable):  # as long as all connections stand, nothing is missed
                    await self._cache.look_at_nodes()
        finally:
            several.end()
            await asyncio.gather(*(tracking.stop() for tracking in trackings))


async def _hand_on(message: Any) -> Any:
    return message  # to whoever reads; redis-py drops what has no handler
