"""The same on an event loop: round trips over a cluster, all nodes side by side."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hiredis import pack_command
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import RedisError, ResponseError

from foreseen.cache_server import AsyncCacheServer
from foreseen.cluster import Silence, Unmapped
from foreseen.nodes import Node, shuffled
from foreseen.parcels import Command
from foreseen.refusals import words_of
from foreseen.settings import Settings
from foreseen.slots import READ_SLOTS, SlotMap, Trip

__all__ = ["AsyncCluster"]


class AsyncCluster:
    """The cluster, for one event loop, and a connection to each node; one round trip at a time.

    Args:
        server: makes connections to its nodes.
        settings: bounds on waiting for them.
    """

    def __init__(self, server: AsyncCacheServer, settings: Settings) -> None:
        assert server.nodes is not None  # noqa: S101 - for the type checker: who makes one has looked
        self._server = server
        self._settings = settings
        self._seeds = server.nodes.seeds
        self._slots: SlotMap | None = None
        self._reading = asyncio.Lock()
        self._pools: dict[Node, Any] = {}
        self._connections: dict[Node, Any] = {}
        self._silence = Silence()
        #: Grows when nodes have come or gone, or changed places.
        self.changes = 0

    async def slots(self) -> SlotMap:
        """Return the map, which is read when it is first asked for.

        Raises:
            Unmapped: no node answers.
        """
        return self._slots or await self.read_again(None)

    @property
    def masters(self) -> tuple[Node, ...]:
        """Those of the known nodes that hold slots."""
        return self._slots.masters if self._slots is not None else self._seeds

    @property
    def known(self) -> tuple[Node, ...]:
        """Nodes, as far as they are known without asking."""
        return self._slots.nodes if self._slots is not None else self._seeds

    async def read_again(self, seen: SlotMap | None, known_by: Sequence[Node] = ()) -> SlotMap:
        """Read the map anew, unless somebody has done so since; return it.

        Args:
            seen: the map that is too old.
            known_by: nodes to ask first.

        Raises:
            Unmapped: no node answers.
        """
        async with self._reading:
            if self._slots is not None and self._slots is not seen:
                return self._slots
            known = self._slots.nodes if self._slots is not None else ()
            errors: list[str] = []
            for node in dict.fromkeys((*known_by, *shuffled(known), *self._seeds)):
                if (error := self._silence.of(node)) is None:
                    began = time.monotonic()
                    try:
                        slots = await self._ask(node)
                    except (RedisError, OSError, ValueError) as failed:
                        self._silence.note(node, failed, began)
                        error = failed
                    else:
                        self._silence.ended(node)
                        before, self._slots = self._slots, slots
                        if before is not None and set(before.masters) != set(slots.masters):
                            self.changes += 1
                        return slots
                errors.append(f"{node}: {words_of(error)}")
            raise Unmapped("; ".join(errors))

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies in order; what a node did not answer is answered with an error.

        Raises:
            Unmapped: no node tells where anything is.
        """
        trip = Trip(commands)
        slots = await self.slots()
        while requests := trip.requests(slots):
            try:
                await asyncio.gather(*(self._ask_for(trip, node, places) for node, places in requests.items()))
            except BaseException:
                await self.disconnect()  # replies may still be on their way: nobody else may read them
                raise
            trip.end_turn()
            if trip.pause_s:
                await asyncio.sleep(trip.pause_s)
            if trip.is_map_old:
                with suppress(Unmapped):  # what was lost is lost
                    slots = await self.read_again(slots, trip.moved_to)
        return trip.replies

    async def disconnect(self) -> None:
        """Hang up."""
        for node in list(self._connections):
            await self._hang_up(node)

    async def _ask_for(self, trip: Trip, node: Node, places: list[int]) -> None:
        if (silent := self._silence.of(node)) is not None:
            trip.lost(node, places, silent, is_final=True)
            return
        began, was_open = time.monotonic(), node in self._connections
        packed = trip.packed(places)
        replies: list[Any] = []
        try:
            if not was_open:
                self._connections[node] = await self._open(node)
            connection = self._connections[node]
            async with asyncio.timeout(self._settings.reply_timeout_s):
                await connection.send_packed_command([b"".join(map(pack_command, packed))], check_health=False)
                for _ in packed:
                    try:
                        replies.append(await connection.read_response(timeout=math.inf))  # no timer each
                    except ResponseError as error:
                        replies.append(error)
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            await self._hang_up(node)
            told = error if str(error) else TimeoutError(f"no reply within {self._settings.reply_timeout_s:g} s")
            was_idle = was_open and isinstance(error, DriverConnectionError)  # which the node has closed meanwhile
            if not was_idle:
                self._silence.note(node, told, began)
            trip.lost(node, places, told, is_final=not was_idle)
        else:
            self._silence.ended(node)
            trip.take(node, places, replies)

    async def _ask(self, node: Node) -> SlotMap:
        connection = await self._open(node)
        try:
            async with asyncio.timeout(self._settings.reply_timeout_s):
                await connection.send_command(*READ_SLOTS, check_health=False)
                return SlotMap.read(await connection.read_response(), node)
        finally:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    async def _open(self, node: Node) -> Any:
        pool = self._pools.get(node)
        if pool is None:
            pool = self._pools[node] = self._server.pool(node)
        connection: Any = pool.make_connection()
        async with asyncio.timeout(self._settings.connect_timeout_s + self._settings.reply_timeout_s):
            await connection.connect()
        return connection

    async def _hang_up(self, node: Node) -> None:
        connection = self._connections.pop(node, None)
        if connection is not None:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
