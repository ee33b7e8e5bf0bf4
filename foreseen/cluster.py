"""Round trips over a cluster, on the caller's thread: all nodes are sent theirs before any is read.

What goes where, and what goes again, is decided in `foreseen/slots.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from hiredis import pack_command
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import RedisError, ResponseError

from foreseen.cache_server import CacheServer
from foreseen.nodes import Node, shuffled
from foreseen.parcels import Command
from foreseen.refusals import words_of
from foreseen.slots import READ_SLOTS, Requests, SlotMap, Trip

__all__ = ["Cluster", "Line", "Silence", "Unmapped"]

#: A node that took longer to fail is not waited for by everybody: one call a second finds out whether it still does.
_LONG_S: Final = 0.1
_TRY_AGAIN_S: Final = 1.0


class Unmapped(DriverConnectionError):
    """No node tells which of them holds which slots."""


class Silence:
    """Which nodes of a cluster let callers wait in vain; others are told so at once, but for one a second."""

    def __init__(self) -> None:
        self._until: dict[Node, tuple[float, Exception]] = {}

    def note(self, node: Node, error: Exception, began: float) -> None:
        """Note that a node failed whom somebody began to ask then."""
        if time.monotonic() - began >= _LONG_S:
            self._until[node] = time.monotonic() + _TRY_AGAIN_S, error

    def ended(self, node: Node) -> None:
        """Note that it has answered."""
        if self._until:
            self._until.pop(node, None)

    def of(self, node: Node) -> Exception | None:
        """Return why a node is not to be asked now; None if it is."""
        if not self._until or (known := self._until.get(node)) is None:
            return None
        until, error = known
        if time.monotonic() < until:
            return error
        self._until[node] = time.monotonic() + _TRY_AGAIN_S, error  # who asks now finds out for all
        return None


class Cluster:
    """The cluster, for one process. Safe for threads.

    Args:
        server: makes connections to its nodes.
    """

    def __init__(self, server: CacheServer) -> None:
        assert server.nodes is not None  # noqa: S101 - for the type checker: who makes one has looked
        self._server = server
        self._seeds = server.nodes.seeds
        self._lock = threading.Lock()
        self._slots: SlotMap | None = None
        self._pools: dict[Node, Any] = {}
        self.silence = Silence()
        #: Grows when nodes have come or gone, or changed places.
        self.changes = 0

    @property
    def slots(self) -> SlotMap:
        """The map; read when it is first asked for.

        Raises:
            Unmapped: no node answers.
        """
        return self._slots or self.read_again(None)

    def read_again(self, seen: SlotMap | None, known_by: Sequence[Node] = ()) -> SlotMap:
        """Read the map anew, unless somebody has done so since; return it.

        Args:
            seen: the map that is too old.
            known_by: nodes to ask first.

        Raises:
            Unmapped: no node answers.
        """
        with self._lock:
            if self._slots is not None and self._slots is not seen:
                return self._slots
            known = self._slots.nodes if self._slots is not None else ()
            errors: list[str] = []
            for node in dict.fromkeys((*known_by, *shuffled(known), *self._seeds)):
                if (error := self.silence.of(node)) is None:
                    began = time.monotonic()
                    try:
                        slots = SlotMap.read(self.ask(node, [READ_SLOTS])[0], node)
                    except (RedisError, OSError, ValueError) as failed:
                        self.silence.note(node, failed, began)
                        error = failed
                    else:
                        self.silence.ended(node)
                        self._note(slots)
                        return slots
                errors.append(f"{node}: {words_of(error)}")
            raise Unmapped("; ".join(errors))

    def connection(self, node: Node) -> Any:
        """Return a connection to a node, which is not open yet."""
        pool = self._pools.get(node)
        if pool is None:
            pool = self._pools[node] = self._server.pool(node)
        return pool.make_connection()

    @property
    def masters(self) -> tuple[Node, ...]:
        """Those of the known nodes that hold slots."""
        return self._slots.masters if self._slots is not None else self._seeds

    @property
    def known(self) -> tuple[Node, ...]:
        """Nodes, as far as they are known without asking."""
        return self._slots.nodes if self._slots is not None else self._seeds

    def ask(self, node: Node, commands: Sequence[Command]) -> list[Any]:
        """Ask one node over a connection of its own.

        Raises:
            RedisError, OSError: it does not answer.
        """
        connection = self.connection(node)
        try:
            connection.connect()
            connection.send_packed_command([b"".join(map(pack_command, commands))], check_health=False)
            return read_replies(connection, len(commands))
        finally:
            with suppress(RedisError, OSError):
                connection.disconnect()

    def _note(self, slots: SlotMap) -> None:
        before, self._slots = self._slots, slots
        if before is not None and set(before.masters) != set(slots.masters):
            self.changes += 1


class Line:
    """A connection to each node: carries one round trip at a time.

    Args:
        cluster: of which they are.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._connections: dict[Node, Any] = {}

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies in order; what a node did not answer is answered with an error.

        Raises:
            Unmapped: no node tells where anything is.
        """
        cluster, trip = self._cluster, Trip(commands)
        slots = cluster.slots
        while requests := trip.requests(slots):
            try:
                self._turn(trip, requests)
            except BaseException:
                self.disconnect()  # replies may still be on their way: nobody else may read them
                raise
            trip.end_turn()
            if trip.pause_s:
                time.sleep(trip.pause_s)
            if trip.is_map_old:
                with suppress(Unmapped):  # what was lost is lost
                    slots = cluster.read_again(slots, trip.moved_to)
        return trip.replies

    def disconnect(self) -> None:
        """Hang up."""
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            with suppress(RedisError, OSError):
                connection.disconnect()

    def _turn(self, trip: Trip, requests: Requests) -> None:
        sent: list[tuple[Node, list[int], int, bool]] = []
        began = time.monotonic()
        for node, places in requests.items():
            if (silent := self._cluster.silence.of(node)) is not None:
                trip.lost(node, places, silent, is_final=True)
                continue
            connection = self._connections.get(node)
            was_open = connection is not None and connection.is_connected
            try:
                if connection is None:
                    connection = self._connections[node] = self._cluster.connection(node)
                if not was_open:
                    connection.connect()
                packed = trip.packed(places)
                connection.send_packed_command([b"".join(map(pack_command, packed))], check_health=False)
                sent.append((node, places, len(packed), was_open))
            except (RedisError, OSError) as error:
                self._lose(trip, node, places, error, began, was_open=was_open)
        for node, places, count, was_open in sent:
            try:
                trip.take(node, places, read_replies(self._connections[node], count))
                self._cluster.silence.ended(node)
            except (RedisError, OSError) as error:
                self._lose(trip, node, places, error, began, was_open=was_open)

    def _lose(
        self, trip: Trip, node: Node, places: list[int], error: Exception, began: float, *, was_open: bool
    ) -> None:
        connection = self._connections.pop(node, None)
        if connection is not None:
            with suppress(RedisError, OSError):
                connection.disconnect()
        was_idle = was_open and isinstance(error, DriverConnectionError)  # which the node has closed meanwhile
        if not was_idle:
            self._cluster.silence.note(node, error, began)
        trip.lost(node, places, error, is_final=not was_idle)


def read_replies(connection: Any, count: int) -> list[Any]:
    """Return the next replies, errors among them."""
    replies: list[Any] = []
    for _ in range(count):
        try:
            replies.append(connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies
