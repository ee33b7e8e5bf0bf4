"""Round trips to the cache server, or to a cluster of them, for one event loop.

What is asked while a round trip is in the air gathers, and goes together in the next: no timer, no added wait for a
lone caller, and fewer round trips the busier it is. So one connection serves any number of tasks.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import redis.asyncio
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from foreseen.cache import evaluate, evaluate_text, loads, parted, refuse_errors, with_led
from foreseen.cache_server import AsyncCacheServer, without_password
from foreseen.ending import end
from foreseen.errors import CacheUnavailable
from foreseen.flights import Call
from foreseen.nodes import Node, shuffled
from foreseen.outage import Outage
from foreseen.parcels import Command, Parcel, pack, parcel, unpack
from foreseen.refusals import BecameReplica, is_replica, said_by
from foreseen.settings import Settings

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

    from foreseen.async_cluster import AsyncCluster

__all__ = ["AsyncCache"]

T = TypeVar("T")

#: Commands that share a round trip: their replies are handed out in one pass of the loop, at about 30 µs each.
_MOST: Final = 128


class _Waiting(NamedTuple):
    """What one task asks, how many commands those are, and where the replies go."""

    parcel: Any
    n_commands: int
    replies: asyncio.Future[list[Any]]


class AsyncCache:
    """The cache server, for the tasks of one event loop.

    Args:
        settings: where the server is, and the bounds on waiting for it.
        breaks: while finding out that the server is away takes long, let only one call a second find out.

    Attributes:
        outage: what is known of the server's troubles.
        moves: grows when the server had become a replica and another has taken its place, or a cluster's masters have
            changed; a subscription that was opened before may be with the old one.
    """

    def __init__(self, settings: Settings, *, breaks: bool = False) -> None:
        self._settings = settings
        self._where = without_password(settings.cache_url)
        self._server = AsyncCacheServer(settings)
        self._pool = self._server.pool()
        self._cluster: AsyncCluster | None = None
        self._wrap: Callable[[Sequence[Command]], Any] = parcel
        if self._server.nodes is not None:
            from foreseen.async_cluster import AsyncCluster

            self._cluster, self._wrap = AsyncCluster(self._server, settings), list
        self.outage = Outage(self._where, breaks=breaks)
        self.moves = 0
        self._was_replica = False
        self._connection: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[_Waiting] = deque()
        self._carrying: asyncio.Task[None] | None = None

    async def run(self, calls: Sequence[Call[T]]) -> list[T]:
        """Run scripts in one round trip and return what each says, in order.

        Raises:
            CacheUnavailable: the server does not answer, or refused one of them; a retry may help.
            UnsupportedLayout: another release is computing one of the keys; a retry helps once it has.
        """
        if self._cluster is not None and (place := parted(calls)):
            return [*await self.run(calls[:place]), *await self.run(calls[place:])]
        commands = [evaluate(call) for call in calls]
        if self.outage.since is not None:
            self.outage.check()
        replies = await self._send(commands)
        missing = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            places = with_led(calls, missing)
            loading = loads(calls[index] for index in places)
            again = (await self._send([*loading, *(commands[index] for index in places)]))[len(loading) :]
            for index, reply in zip(places, again, strict=True):
                replies[index] = reply
            # Flushed between the two: sent with its text, a script cannot be missing.
            missing = [index for index in places if isinstance(replies[index], NoScriptError)]
            for index in with_led(calls, missing):
                (replies[index],) = await self._send([evaluate_text(calls[index])])
        self._judge(replies)
        return [call.read(reply) for call, reply in zip(calls, replies, strict=True)]

    async def commands(self, commands: Sequence[Command]) -> list[Any]:
        """Send plain commands in one round trip and return their raw replies (bytes, integers, lists).

        Raises:
            CacheUnavailable: the server does not answer, or refused one of them; a retry may help.
        """
        if self.outage.since is not None:
            self.outage.check()
        replies = await self._send(commands)
        self._judge(replies)
        return replies

    def nodes(self) -> Sequence[Node | None]:
        """Return the servers of a cluster, replicas too; None alone stands for one server."""
        return (None,) if self._cluster is None else self._cluster.known

    def masters(self) -> Sequence[Node]:
        """Return the masters of a cluster, as far as they are known."""
        return () if self._cluster is None else self._cluster.masters

    async def look_at_nodes(self) -> None:
        """Find out whether a cluster's masters have changed, which `moves` tells.

        Raises:
            CacheUnavailable: none of them tells; a retry may help.
        """
        if self._cluster is not None:
            try:
                await self._cluster.read_again(await self._cluster.slots())
            except (RedisError, OSError) as error:
                raise CacheUnavailable(said_by(error, self._where)) from error
            self.moves = self._cluster.changes

    def pubsub(self, health_check_s: float) -> PubSub:
        """Return a subscription connection of its own, which pings after `health_check_s` of silence.

        What is published on one node of a cluster is heard on every other; one is drawn.
        """
        node = None if self._cluster is None else shuffled(self._cluster.known)[0]
        # Which connects anew by itself, in the middle of a read: nobody else bounds that.
        bound = {"socket_timeout": self._settings.reply_timeout_s}
        pool = self._server.pool(node, health_check_interval=health_check_s, **bound)
        return redis.asyncio.Redis(connection_pool=pool).pubsub()

    def pool(self, node: Node | None = None, **options: Any) -> redis.asyncio.ConnectionPool:
        """Return a pool of its own, for connections with other options of redis-py's; `node` is one of a cluster's."""
        return self._server.pool(node, **options)

    async def close(self) -> None:
        """Close the connection; who waits for a reply is told that there will be none."""
        if self._carrying is not None:
            await end(self._carrying)
        await self._hang_up()
        await self._server.close()

    def _judge(self, replies: Sequence[Any]) -> None:
        """Raise the first error among replies, and note whether the server is well."""
        try:
            refuse_errors(replies, self._where)
        except CacheUnavailable as error:
            self.outage.failed(str(error), refused=True)
            raise
        if self.outage.since is not None and self.outage.succeeded() and self._was_replica:
            self._was_replica = False
            self.moves += 1

    def _send(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        loop = self._loop
        if loop is None:  # which asyncio answers with a system call
            loop = self._loop = asyncio.get_running_loop()
        replies: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append(_Waiting(self._wrap(commands), len(commands), replies))
        if self._carrying is None:
            # A task of its own: the caller who happens to be first may be cancelled, and the others' replies with him.
            self._carrying = loop.create_task(self._carry())
        return replies

    async def _carry(self) -> None:
        """Make round trips for as long as somebody waits for one."""
        taken: list[_Waiting] = []
        try:
            while self._waiting:
                taken = [self._waiting.popleft()]
                count = taken[0].n_commands
                while self._waiting and count + self._waiting[0].n_commands <= _MOST:
                    count += self._waiting[0].n_commands
                    taken.append(self._waiting.popleft())
                await self._deliver(taken)
                if self._waiting and self.outage.since is not None:
                    self._tell_those_who_wait()
        finally:
            self._carrying = None
            for each in (*taken, *self._waiting):  # none, unless this was cancelled
                if not each.replies.done():
                    each.replies.set_exception(CacheUnavailable(f"The connection to {self._where} was closed."))
            self._waiting.clear()

    def _tell_those_who_wait(self) -> None:
        """Spare who waits behind a call that has just waited in vain the same wait."""
        try:
            self.outage.check()
        except CacheUnavailable as error:
            for each in self._waiting:
                if not each.replies.done():
                    each.replies.set_exception(CacheUnavailable(str(error)))
            self._waiting.clear()

    async def _deliver(self, waiting: Sequence[_Waiting]) -> None:
        parcels = [each.parcel for each in waiting]
        began = time.monotonic()
        try:
            if self._cluster is None:
                told = await self._exchange_twice(parcels)
            else:
                told = await self._exchange_with_nodes(self._cluster, parcels)
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            silence = TimeoutError(f"no reply within {self._settings.reply_timeout_s:g} s")
            reason = said_by(error if str(error) else silence, self._where)
            self._was_replica = self._was_replica or is_replica(error)
            took_s = time.monotonic() - began
            self.outage.failed(reason, refused=is_replica(error), took_s=took_s, calls=len(parcels))
            for each in waiting:
                if not each.replies.done():  # its task may have been cancelled
                    failure = CacheUnavailable(reason)
                    failure.__cause__ = error
                    each.replies.set_exception(failure)
            return
        for each, own in zip(waiting, told, strict=True):
            if not each.replies.done():
                each.replies.set_result(own)

    async def _exchange_twice(self, parcels: Sequence[Parcel]) -> list[list[Any]]:
        packed, count = pack(parcels)
        try:
            replies = await self._exchange(packed, count)
        except DriverConnectionError as error:  # an idle connection that the server has closed meanwhile
            replies = await self._exchange(packed, count)
            self.moves += is_replica(error)
        return unpack(parcels, replies)

    async def _exchange_with_nodes(self, cluster: AsyncCluster, asked: Sequence[list[Command]]) -> list[list[Any]]:
        try:
            told = iter(await cluster.exchange([command for commands in asked for command in commands]))
        finally:
            self.moves = cluster.changes
        return [list(islice(told, len(commands))) for commands in asked]

    async def _exchange(self, packed: bytes, count: int) -> list[Any]:
        replies: list[Any] = []
        try:
            if self._connection is None:
                self._connection = self._pool.make_connection()
                async with asyncio.timeout(self._settings.connect_timeout_s + self._settings.reply_timeout_s):
                    await self._connection.connect()
            async with asyncio.timeout(self._settings.reply_timeout_s):
                await self._connection.send_packed_command([packed], check_health=False)
                for _ in range(count):
                    try:
                        replies.append(await self._connection.read_response(timeout=math.inf))  # no timer each
                    except ResponseError as error:
                        if is_replica(error):
                            raise BecameReplica(str(error)) from error
                        replies.append(error)
        except BaseException:
            await self._hang_up()  # replies may still be on their way: nobody else may read them
            raise
        return replies

    async def _hang_up(self) -> None:
        if self._cluster is not None:
            await self._cluster.disconnect()
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
