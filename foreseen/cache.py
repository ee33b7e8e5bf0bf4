"""Round trips to the cache server, on the caller's thread.

Any number of calls go in one round trip, over connections that threads borrow. All steps of the protocol may be sent
twice without harm, so a connection that turns out to be dead is replaced and its calls are sent again, once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import redis
from hiredis import pack_command
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from foreseen.cache_server import CacheServer, without_password
from foreseen.errors import CacheUnavailable, UnsupportedLayout
from foreseen.flights import Call
from foreseen.outage import Outage
from foreseen.refusals import BecameReplica, is_replica, said_by
from foreseen.settings import Settings

if TYPE_CHECKING:
    from redis.client import PubSub

__all__ = ["Cache", "Command", "evaluate", "evaluate_text", "loads", "refuse_errors"]

T = TypeVar("T")
Command: TypeAlias = tuple[Any, ...]

#: How the error begins that scripts raise on a flight of another layout (`scripts/lib/flight.lua`).
_LAYOUT: Final = "LAYOUT "


class Cache:
    """The cache server, for one process.

    Opens connections as threads need them, up to `max_connections`; a call that finds none free waits for one, no
    longer than connecting and a reply may take together.

    Args:
        settings: where the server is, and the bounds on waiting for it.
        breaks: while finding out that the server is away takes long, let only one call a second find out.

    Attributes:
        outage: what is known of the server's troubles.
        moves: grows when the server had become a replica and another has taken its place; a subscription that was
            opened before may be with the old one.
    """

    def __init__(self, settings: Settings, *, breaks: bool = False) -> None:
        self._timeout_s = settings.connect_timeout_s + settings.reply_timeout_s
        self._max_connections = settings.max_connections
        self._server = CacheServer(settings)
        # Bounded here: the pool's own bound raises instead of waiting.
        self._pool = self._server.pool(max_connections=2**31)
        self._where = without_password(settings.cache_url)
        self.outage = Outage(self._where, breaks=breaks)
        self.moves = 0
        self._was_replica = False
        self._idle: deque[Any] = deque()
        self._opened = 0
        self._changed = threading.Condition()

    def run(self, calls: Sequence[Call[T]]) -> list[T]:
        """Run scripts in one round trip and return what each says, in order.

        Raises:
            CacheUnavailable: the server does not answer, or refused one of them; a retry may help.
            UnsupportedLayout: another release is computing one of the keys; a retry helps once it has.
        """
        commands = [evaluate(call) for call in calls]
        if self.outage.since is not None:
            self.outage.check()
        replies = self._send(commands)
        missing = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            loading = loads(calls[index] for index in missing)
            again = self._send([*loading, *(commands[index] for index in missing)])[len(loading) :]
            for index, reply in zip(missing, again, strict=True):
                replies[index] = reply
            # Flushed between the two: sent with its text, a script cannot be missing.
            for index in missing:
                if isinstance(replies[index], NoScriptError):
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

    def pubsub(self, health_check_s: float) -> PubSub:
        """Return a subscription connection of its own, which pings after `health_check_s` of silence."""
        pool = self._server.pool(health_check_interval=health_check_s)
        pubsub: PubSub = redis.Redis(connection_pool=pool).pubsub(ignore_subscribe_messages=True)
        return pubsub

    def pool(self, **options: Any) -> redis.ConnectionPool:
        """Return a pool of its own, for connections that need other options of redis-py's."""
        return self._server.pool(**options)

    def close(self) -> None:
        """Close idle connections; ones in use are closed when they come back."""
        with self._changed:
            self._max_connections = 0
            while self._idle:
                self._discard(self._idle.pop())
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
        connection = self._borrow()
        began = time.monotonic()
        try:
            try:
                return self._exchange(connection, commands)
            except DriverConnectionError as error:  # an idle connection that the server has closed meanwhile
                connection.disconnect()
                if not is_replica(error):
                    return self._exchange(connection, commands)
                self._hang_up_idle()
                replies = self._exchange(connection, commands)
                self.moves += 1
                return replies
        except (RedisError, OSError) as error:
            reason = said_by(error, self._where)
            self._was_replica = self._was_replica or is_replica(error)
            self.outage.failed(reason, refused=is_replica(error), took_s=time.monotonic() - began)
            raise CacheUnavailable(reason) from error
        finally:
            self._give_back(connection)

    def _hang_up_idle(self) -> None:
        """Close what is open to a server that has become a replica: the next call on each finds who is master now."""
        idle: list[Any] = []
        with suppress(IndexError):
            while True:
                idle.append(self._idle.pop())
        for connection in idle:
            self._discard(connection)
            self._give_back(connection)

    @staticmethod
    def _exchange(connection: Any, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = []
        try:
            if not connection.is_connected:
                connection.connect()  # explicitly: what sending opens by itself does not ask Sentinels where to
            connection.send_packed_command([b"".join(map(pack_command, commands))], check_health=False)
            for _ in commands:
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

    def _borrow(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        deadline = time.monotonic() + self._timeout_s
        with self._changed:
            while not self._idle:
                if self._opened < self._max_connections:
                    self._opened += 1
                    return self._pool.make_connection()
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise CacheUnavailable(
                        f"All {self._opened} connections to {self._where} were in use for {self._timeout_s:g} s: "
                        "raise FORESEEN_MAX_CONNECTIONS, or send fewer requests at once."
                    )
            return self._idle.pop()

    def _give_back(self, connection: Any) -> None:
        if self._opened >= self._max_connections:  # somebody may be waiting, or it was closed meanwhile
            with self._changed:
                if self._max_connections == 0:
                    self._discard(connection)
                    return
                self._idle.append(connection)
                self._changed.notify()
        else:
            self._idle.append(connection)

    def _discard(self, connection: Any) -> None:
        with suppress(RedisError, OSError):
            connection.disconnect()


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


def refuse_errors(replies: Iterable[Any], where: str) -> None:
    """Raise the first error among replies.

    Raises:
        CacheUnavailable: the server refused a command; a retry may help.
        UnsupportedLayout: a script met a flight of another release's.
    """
    for reply in replies:
        if isinstance(reply, ResponseError):
            if str(reply).startswith(_LAYOUT):
                raise UnsupportedLayout(
                    f"A flight at {where} was opened by a release that this one does not speak "
                    f"({str(reply).partition(' script:')[0]}): upgrade the older side."
                ) from reply
            raise CacheUnavailable(said_by(reply, where)) from reply
