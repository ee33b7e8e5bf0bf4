"""The connection on which the server tells what has changed, for a near cache: what is said on it, and its thread.

RESP3's CLIENT TRACKING in broadcast mode: the server pushes the name of each entry and each generation that is written,
removed, expired or evicted, whoever did it, and nothing of what this producer holds is known to it. It does so once for
all that it has read at a time, after the replies: a change that is not told before a ping is answered was made after
that ping was sent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from hiredis import PushNotification
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as DriverTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from foreseen.cache import Cache
from foreseen.client.listening import FIRST_RETRY_S, LAST_RETRY_S
from foreseen.client.near import Near
from foreseen.client.several import NODES_LOOKED_AT_S, Several
from foreseen.errors import CacheUnavailable
from foreseen.keys import KeySpace
from foreseen.nodes import Node
from foreseen.parcels import Command

__all__ = ["PING_S", "RESP3", "NodesTracking", "Tracked", "Tracking"]

log = logging.getLogger("foreseen.client")

#: Between pings: so often that three may come late before an answer is older than the near cache allows.
PING_S: Final = 0.25
#: Pause after a refusal, which a server that does not know the command, or forbids it, will go on with.
_REFUSED_RETRY_S: Final = 30.0

#: Options of such a connection. Maintenance notifications are pushes too, and asked for with a command of their own.
RESP3: Final[dict[str, Any]] = {
    "protocol": 3,
    "maint_notifications_config": MaintNotificationsConfig(enabled=False),
}
#: The server's clock, too.
_PING: Final[Command] = ("TIME",)


class Told(Protocol):
    """The near cache, or its part in one of several connections."""

    def tracked(self) -> None:
        """Note that the server has confirmed to tell of every change from now on."""
        ...

    def answered(self, sent_at: float, server_s: float) -> None:
        """Note that a ping was answered, that was sent then, and the server's clock."""
        ...

    def invalidated(self, names: Iterable[str]) -> None:
        """Note what has changed."""
        ...

    def emptied(self) -> None:
        """Note that everything has."""
        ...

    def lost(self) -> None:
        """Note that what changes from now on is not heard."""
        ...


class Tracked:
    """What is said on such a connection, told to a near cache; and what to do when it is lost.

    Args:
        near: is told.
        space: where the keys are.
    """

    def __init__(self, near: Told, space: KeySpace) -> None:
        self.near = near
        prefixes = [word for prefix in space.near_prefixes() for word in ("PREFIX", prefix)]
        #: What to say first; its reply confirms that the server tells of everything from now on.
        self.begin: Command = ("CLIENT", "TRACKING", "ON", "BCAST", *prefixes)
        #: What to say every `PING_S`.
        self.ping = _PING
        self._retry_s = FIRST_RETRY_S
        self._was_refused = False

    def begun(self) -> None:
        """Note that the first command was answered."""
        self.near.tracked()
        self._retry_s = FIRST_RETRY_S
        self._was_refused = False

    def takes(self, message: Any, sent_at: float) -> bool:
        """Take in what came; True if it answers the ping that was sent then."""
        if not isinstance(message, PushNotification):
            seconds, microseconds = message
            self.near.answered(sent_at, int(seconds) + int(microseconds) / 1e6)
            return True
        if message[0] == b"invalidate":
            if message[1] is None:  # flushed
                self.near.emptied()
            else:
                self.near.invalidated([name.decode("utf-8", "replace") for name in message[1]])
        return False

    def lost(self, error: Exception) -> float:
        """Note that the connection was lost or refused; return for how long to wait before it is opened again."""
        self.near.lost()
        if isinstance(error, ResponseError):
            if not self._was_refused:
                log.warning("The near cache stays off, since the cache server refuses to tell of changes: %s", error)
            self._was_refused = True
            return _REFUSED_RETRY_S
        log.debug("the near cache is off, trying again in %.2f s: %s", self._retry_s, error)
        pause_s, self._retry_s = self._retry_s, min(2 * self._retry_s, LAST_RETRY_S)
        return pause_s


class Tracking:
    """Keeps the connection open on a thread of its own, and pings.

    Args:
        tracked: takes in what comes.
        cache: knows where the server is.
        node: of a cluster.
    """

    def __init__(self, tracked: Tracked, cache: Cache, node: Node | None = None) -> None:
        self._tracked = tracked
        self._cache = cache
        self._pool = cache.pool(node, **RESP3)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreseen-near", daemon=True)

    def start(self) -> None:
        """Begin; the near cache is on once the server has confirmed."""
        self._thread.start()

    def stop(self) -> None:
        """End, within the pause between two pings; a server that has stopped to answer is not waited for."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2 * PING_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            connection: Any = self._pool.make_connection()
            connection._parser.set_invalidation_push_handler(_hand_on)  # noqa: SLF001 - there is no other way to it
            pause_s = 0.0
            try:
                self._track(connection)
            except (RedisError, OSError) as error:
                pause_s = self._tracked.lost(error)
            except Exception as error:  # a defect here must not leave the near cache on
                log.exception("following the cache server's changes failed, starting over")
                self._tracked.lost(error)
                pause_s = LAST_RETRY_S
            finally:
                with suppress(RedisError, OSError):
                    connection.disconnect()
            self._stopping.wait(pause_s)
        self._tracked.near.lost()

    def _track(self, connection: Any) -> None:
        moves = self._cache.moves
        connection.connect()
        self._say(connection, self._tracked.begin)
        while isinstance(connection.read_response(push_request=True), PushNotification):
            pass  # of before it was confirmed
        self._tracked.begun()
        while not self._stopping.is_set():
            if moves != self._cache.moves:
                raise ConnectionError("another server has taken the cache's place")
            sent_at = time.monotonic()
            self._say(connection, self._tracked.ping)
            while not self._tracked.takes(connection.read_response(push_request=True), sent_at):
                pass
            with suppress(DriverTimeoutError):  # nothing more has come
                while (left_s := sent_at + PING_S - time.monotonic()) > 0:
                    message = connection.read_response(timeout=left_s, disconnect_on_error=False, push_request=True)
                    self._tracked.takes(message, sent_at)

    @staticmethod
    def _say(connection: Any, command: Command) -> None:
        connection.send_command(*command, check_health=False)


class NodesTracking:
    """Keeps a connection open to each master of a cluster, on threads of their own, and follows the masters.

    Args:
        near: is told.
        space: where the keys are.
        cache: knows where the nodes are.
    """

    def __init__(self, near: Near, space: KeySpace, cache: Cache) -> None:
        self._near = near
        self._space = space
        self._cache = cache
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreseen-near-nodes", daemon=True)

    def start(self) -> None:
        """Begin; the near cache is on once all have confirmed."""
        self._thread.start()

    def stop(self) -> None:
        """End, within the pause between two pings."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(4 * PING_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._cache.look_at_nodes()
                self._follow(self._cache.moves, self._cache.masters())  # in this order: other threads move it, too
            except CacheUnavailable:
                self._stopping.wait(LAST_RETRY_S)
            except Exception:  # a defect here must not leave the near cache on
                log.exception("following the cluster's masters failed, starting over")
                self._stopping.wait(LAST_RETRY_S)

    def _follow(self, moves: int, masters: Sequence[Node]) -> None:
        """Track these masters, of after so many moves, until there are others."""
        several = Several(self._near, len(masters))
        trackings = [
            Tracking(Tracked(member, self._space), self._cache, node)
            for member, node in zip(several.members, masters, strict=True)
        ]
        try:
            for tracking in trackings:
                tracking.start()
            while not self._stopping.wait(NODES_LOOKED_AT_S) and moves == self._cache.moves:
                with suppress(CacheUnavailable):  # as long as all connections stand, nothing is missed
                    self._cache.look_at_nodes()
        finally:
            several.end()
            for tracking in trackings:
                tracking.stop()


def _hand_on(message: Any) -> Any:
    return message  # to whoever reads; redis-py drops what has no handler
