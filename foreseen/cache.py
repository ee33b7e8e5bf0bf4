"""Round trips to the cache server, or to a cluster of them, on the caller's thread.

Any number of calls go in one round trip; what threads ask while all connections carry one gathers, and shares the
next (`foreseen/gathering.py`). All steps of the protocol may be sent twice without harm, so a connection that turns out
to be dead is replaced and its calls are sent again, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

import redis
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from foreseen.cache_server import CacheServer, without_password
from foreseen.errors import CacheUnavailable, UnsupportedLayout
from foreseen.flights import Call
from foreseen.gathering import Gathering
from foreseen.nodes import Node, shuffled
from foreseen.outage import Outage
from foreseen.parcels import Command, Parcel, pack, parcel, unpack
from foreseen.refusals import BecameReplica, is_replica, said_by
from foreseen.settings import Settings

if TYPE_CHECKING:
    from redis.client import PubSub

    from foreseen.cluster import Cluster, Line

__all__ = ["Cache", "evaluate", "evaluate_text", "loads", "parted", "refuse_errors", "with_led"]

T = TypeVar("T")
#: How the error begins that scripts raise on a flight of another layout (`scripts/lib/flight.lua`).
_LAYOUT: Final = "LAYOUT "
#: Commands that share a round trip: their replies are read in one go, at about 3 µs each.
_MOST: Final = 128


class Cache:
    """The cache server, for one process.

    Opens up to `max_connections` as threads need them; calls that find none free go together over the next that is.

    Args:
        settings: where the server is, and the bounds on waiting for it.
        breaks: while finding out that the server is away takes long, let only one call a second find out.

    Attributes:
        outage: what is known of the server's troubles.
        moves: grows when the server had become a replica and another has taken its place, or a cluster's masters have
            changed; a subscription that was opened before may be with the old one.
    """

    def __init__(self, settings: Settings, *, breaks: bool = False) -> None:
        self._server = CacheServer(settings)
        self._cluster: Cluster | None = None
        self._where = without_password(settings.cache_url)
        self.outage = Outage(self._where, breaks=breaks)
        self.moves = 0
        self._was_replica = False
        self._is_closed = False
        new_line: Callable[[], Any]
        self._wrap: Callable[[Sequence[Command]], Any]
        carry: Callable[[Any, Sequence[Any]], list[list[Any]]]
        if self._server.nodes is None:
            new_line, self._wrap, carry = self._server.pool().make_connection, parcel, self._carry
        else:
            from foreseen.cluster import Cluster, Line

            self._cluster = cluster = Cluster(self._server)
            new_line, self._wrap, carry = (lambda: Line(cluster)), list, self._carry_to_nodes
        self._gathering: Gathering[Any, Any, list[Any]] = Gathering(
            [new_line() for _ in range(settings.max_connections)],
            new_line,
            carry,
            most=_MOST,
            patience_s=2 * (settings.connect_timeout_s + settings.reply_timeout_s),
        )

    def run(self, calls: Sequence[Call[T]]) -> list[T]:
        """Run scripts in one round trip and return what each says, in order.

        Raises:
            CacheUnavailable: the server does not answer, or refused one of them; a retry may help.
            UnsupportedLayout: another release is computing one of the keys; a retry helps once it has.
        """
        if self._cluster is not None and (place := parted(calls)):
            return [*self.run(calls[:place]), *self.run(calls[place:])]
        commands = [evaluate(call) for call in calls]
        if self.outage.since is not None:
            self.outage.check()
        replies = self._send(commands)
        missing = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            places = with_led(calls, missing)
            loading = loads(calls[index] for index in places)
            again = self._send([*loading, *(commands[index] for index in places)])[len(loading) :]
            for index, reply in zip(places, again, strict=True):
                replies[index] = reply
            # Flushed between the two: sent with its text, a script cannot be missing.
            missing = [index for index in places if isinstance(replies[index], NoScriptError)]
            for index in with_led(calls, missing):
                (replies[index],) = self._send([evaluate_text(calls[index])])
        self._judge(replies)
        return [call.read(reply) for call, reply in zip(calls, replies, strict=True)]

    def commands(self, commands: Sequence[Command]) -> list[Any]:
        """Send plain commands in one round trip and return their raw replies (bytes, integers, lists).

        Raises:
            CacheUnavailable: the server does not answer, or refused one of them; a retry may help.
        """
        if self.outage.since is not None:
            self.outage.check()
        replies = self._send(commands)
        self._judge(replies)
        return replies

    def of_each(self, commands: Sequence[Command]) -> list[list[Any]]:
        """Send plain commands that name no key to every master, and return the replies of each.

        Raises:
            CacheUnavailable: one does not answer, or refused one of them; a retry may help.
        """
        if self._cluster is None:
            return [self.commands(commands)]
        try:
            told = [self._cluster.ask(node, commands) for node in self._cluster.slots.masters]
        except (RedisError, OSError) as error:
            raise CacheUnavailable(said_by(error, self._where)) from error
        for replies in told:
            refuse_errors(replies, self._where)
        return told

    def nodes(self) -> Sequence[Node | None]:
        """Return the servers of a cluster, replicas too; None alone stands for one server."""
        return (None,) if self._cluster is None else self._cluster.known

    def masters(self) -> Sequence[Node]:
        """Return the masters of a cluster, as far as they are known."""
        return () if self._cluster is None else self._cluster.masters

    def look_at_nodes(self) -> None:
        """Find out whether a cluster's masters have changed, which `moves` tells.

        Raises:
            CacheUnavailable: none of them tells; a retry may help.
        """
        if self._cluster is not None:
            try:
                self._cluster.read_again(self._cluster.slots)
            except (RedisError, OSError) as error:
                raise CacheUnavailable(said_by(error, self._where)) from error
            self.moves = self._cluster.changes

    def pubsub(self, health_check_s: float, node: Node | None = None) -> PubSub:
        """Return a subscription connection of its own, which pings after `health_check_s` of silence.

        What is published on one node of a cluster is heard on every other; unless told, one is drawn.
        """
        if node is None and self._cluster is not None:
            node = shuffled(self._cluster.known)[0]
        pool = self._server.pool(node, health_check_interval=health_check_s)
        pubsub: PubSub = redis.Redis(connection_pool=pool).pubsub(ignore_subscribe_messages=True)
        return pubsub

    def pool(self, node: Node | None = None, **options: Any) -> redis.ConnectionPool:
        """Return a pool of its own, for connections with other options of redis-py's; `node` is one of a cluster's."""
        return self._server.pool(node, **options)

    def close(self) -> None:
        """Close idle connections; ones in use are closed once they are free."""
        self._is_closed = True
        self._hang_up_idle()
        self._server.close()

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

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return self._gathering.send(self._wrap(commands), len(commands))
        finally:
            if self._is_closed:  # asked after the connection is free again, where `close` looks for it
                self._hang_up_idle()

    def _carry(self, connection: Any, parcels: Sequence[Parcel]) -> list[list[Any]]:
        """Make one round trip for several callers; return each one's replies."""
        return unpack(parcels, self._exchange_twice(connection, *pack(parcels), len(parcels)))

    def _carry_to_nodes(self, line: Line, asked: Sequence[list[Command]]) -> list[list[Any]]:
        """Likewise over a cluster; whose node does not answer finds that among his replies."""
        assert self._cluster is not None  # noqa: S101 - for the type checker
        began = time.monotonic()
        try:
            replies = line.exchange([command for commands in asked for command in commands])
        except (RedisError, OSError) as error:
            reason = said_by(error, self._where)
            self.outage.failed(reason, refused=False, took_s=time.monotonic() - began, calls=len(asked))
            self._tell_those_who_wait()
            raise CacheUnavailable(reason) from error
        finally:
            self.moves = self._cluster.changes
        told = iter(replies)
        return [list(islice(told, len(commands))) for commands in asked]

    def _exchange_twice(self, connection: Any, packed: bytes, n_commands: int, n_callers: int) -> list[Any]:
        began = time.monotonic()
        try:
            try:
                return self._exchange(connection, packed, n_commands)
            except DriverConnectionError as error:  # an idle connection that the server has closed meanwhile
                connection.disconnect()
                if not is_replica(error):
                    return self._exchange(connection, packed, n_commands)
                self._hang_up_idle()
                replies = self._exchange(connection, packed, n_commands)
                self.moves += 1
                return replies
        except (RedisError, OSError) as error:
            reason = said_by(error, self._where)
            self._was_replica = self._was_replica or is_replica(error)
            took_s = time.monotonic() - began
            self.outage.failed(reason, refused=is_replica(error), took_s=took_s, calls=n_callers)
            self._tell_those_who_wait()
            raise CacheUnavailable(reason) from error

    def _tell_those_who_wait(self) -> None:
        """Spare who waits behind a call that has just waited in vain the same wait."""
        try:
            self.outage.check()
        except CacheUnavailable as error:
            self._gathering.tell_all(error)

    def _hang_up_idle(self) -> None:
        """Close the connections that carry nothing now; the next call on each opens it anew."""
        for connection in self._gathering.idle():
            with suppress(RedisError, OSError):
                connection.disconnect()
            self._gathering.give_back(connection)

    @staticmethod
    def _exchange(connection: Any, packed: bytes, n_commands: int) -> list[Any]:
        replies: list[Any] = []
        try:
            if not connection.is_connected:
                connection.connect()  # explicitly: what sending opens by itself does not ask Sentinels where to
            connection.send_packed_command([packed], check_health=False)
            for _ in range(n_commands):
                try:
                    replies.append(connection.read_response())
                except ResponseError as error:
                    if is_replica(error):
                        raise BecameReplica(str(error)) from error
                    replies.append(error)
        except BaseException:
            connection.disconnect()  # replies may still be on their way: nobody else may read them
            raise
        return replies


def evaluate(call: Call[Any]) -> Command:
    """Return the command that runs a call's script, should the server have it."""
    return ("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.args)


def evaluate_text(call: Call[Any]) -> Command:
    """Return the command that runs a call's script whether or not the server has it, and leaves it there."""
    return ("EVAL", call.script.text, len(call.keys), *call.keys, *call.args)


def loads(calls: Iterable[Call[Any]]) -> list[Command]:
    """Return the commands that give the server the scripts of calls."""
    scripts = {call.script.sha: call.script for call in calls}
    return [("SCRIPT", "LOAD", script.text) for script in scripts.values()]


def with_led(calls: Sequence[Call[Any]], missing: Sequence[int]) -> Sequence[int]:
    """Return the places of calls that are to be sent again; where one of them leads, also of all after it."""
    first = next((place for place in missing if calls[place].leads), len(calls))
    return [*(place for place in missing if place < first), *range(first, len(calls))]


def parted(calls: Sequence[Call[Any]]) -> int:
    """Return from which place on calls are to be sent to a cluster once those before are answered; 0 if from none."""
    return next((n for n in range(1, len(calls)) if calls[n - 1].leads and not calls[n].leads), 0)


def refuse_errors(replies: Iterable[Any], where: str) -> None:
    """Raise the first error among replies.

    Raises:
        CacheUnavailable: the server refused a command; a retry may help.
        UnsupportedLayout: a script met a flight of another release's.
    """
    for reply in replies:
        if isinstance(reply, Exception):  # a server's, or for want of a reply from that node of a cluster
            if str(reply).startswith(_LAYOUT):
                raise UnsupportedLayout(
                    f"A flight at {where} was opened by a release that this one does not speak "
                    f"({str(reply).partition(' script:')[0]}): upgrade the older side."
                ) from reply
            raise CacheUnavailable(said_by(reply, where)) from reply
