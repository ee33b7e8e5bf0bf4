"""What a worker has taken from a Redis broker and not acked: noted there without waiting for the broker's replies.

kombu waits for a reply between taking a message and handing it to the pool, which is a tenth of the time of a short
task. It need not: what is written to a connection leaves it even if the process is killed at the next instruction.

When something was taken, and whether that is too long ago, is told by the broker's clock. kombu takes the worker's: one
that is fast has everybody's messages delivered again at once, one that is slow its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from hiredis import pack_command
from kombu.transport import redis, virtual
from kombu.utils.json import dumps
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, ResponseError

__all__ = ["QoS", "SentAhead"]

log = logging.getLogger("foreseen.worker")

#: KEYS: index, notes. ARGV: delivery tag, content. Sent whole: one that is called by its digest might be unknown there,
#: and nobody waits for the reply that says so.
_NOTE: Final = (
    "local now = redis.call('TIME') "
    "redis.call('ZADD', KEYS[1], now[1] + now[2] / 1000000, ARGV[1]) "
    "redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])"
)


class SentAhead:
    """Commands that are sent in order, and not waited for; those that may be sent twice without harm.

    They are kept until the server has confirmed them, and sent again when their connection has proved to be broken.

    Args:
        connect: returns a connection of redis-py's, not yet connected.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None
        self._unconfirmed: deque[bytes] = deque()
        self._turn = threading.RLock()  # acks may come from other threads, and from a finalizer in the midst of one

    def send(self, *commands: tuple[Any, ...]) -> None:
        """Send commands; what cannot be sent now goes with the next ones, or with `confirm`."""
        packed = [pack_command(command) for command in commands]
        with self._turn:
            try:
                if self._connection is not None and self._connection.can_read(0):  # raises if it was closed
                    self._read_reply()
                    while self._unconfirmed and self._connection.can_read(0):
                        self._read_reply()
            except (RedisError, OSError):  # such as an idle connection that the server has closed meanwhile
                self.hang_up()
            self._unconfirmed += packed
            try:
                self._write(packed)
            except (RedisError, OSError) as error:
                self.hang_up()
                log.warning("the broker will be told later what is unacked: %s", error)

    def confirm(self) -> None:
        """Wait until the server has everything that was sent.

        Raises:
            redis.exceptions.RedisError, OSError: it does not answer; a retry may help.
        """
        with self._turn:
            try:
                self._read_replies()
            except (RedisError, OSError):
                self.hang_up()
                self._read_replies()

    def hang_up(self) -> None:
        """Close the connection; what is not confirmed is sent again over the next."""
        with self._turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.disconnect()

    def _read_replies(self) -> None:
        if self._unconfirmed and self._connection is None:
            self._write([])
        while self._unconfirmed:
            self._read_reply()

    def _read_reply(self) -> None:
        try:
            self._connection.read_response()
        except ResponseError as error:
            log.error("the broker refused to note what is unacked: %s", error)  # noqa: TRY400 - the text says all
        if not self._unconfirmed:
            raise ConnectionLost("a reply to nothing")
        self._unconfirmed.popleft()

    def _write(self, packed: Sequence[bytes]) -> None:
        """Write what was just added; over a new connection, everything that is not confirmed."""
        if self._connection is None:
            packed = [*self._unconfirmed]
            self._connection = self._connect()
        try:
            self._connection.send_packed_command([b"".join(packed)], check_health=False)
        except BaseException:
            self.hang_up()
            raise


class QoS(redis.QoS):
    """kombu's record of what is unacked, sent ahead."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ahead = SentAhead(lambda: self.channel.pool.make_connection())  # noqa: PLW0108 - the pool changes

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as unacked."""
        info = message.delivery_info
        content = dumps([message._raw, info["exchange"], info["routing_key"]])  # noqa: SLF001 - as kombu notes it
        self._ahead.send(("EVAL", _NOTE, 2, self.unacked_index_key, self.unacked_key, delivery_tag, content))
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Strike a message out."""
        self._ahead.send(("ZREM", self.unacked_index_key, delivery_tag), ("HDEL", self.unacked_key, delivery_tag))
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """Put a message back into its queue, or drop it."""
        if requeue:
            super().reject(delivery_tag, requeue)
        else:
            self.ack(delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """Put a message back into its queue: from its note, so the broker must have that."""
        self._ahead.confirm()
        super().restore_by_tag(tag, client, leftmost)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Deliver again what was noted too long ago; kombu calls it every few seconds.

        Only in a worker: who looks on, as Flower does, need not have the right to any message for that.
        """
        if not self.channel.connection.restores:
            return
        self._ahead.confirm()
        with self.channel.conn_or_acquire() as client:
            seconds, microseconds = client.time()
        # kombu reckons from this process's clock.
        self.visibility_timeout = self.channel.visibility_timeout + time.time() - (seconds + microseconds / 1e6)
        super().restore_visible(*args, **kwargs)

    def restore_unacked_once(self, *args: Any, **kwargs: Any) -> None:
        """Put everything back, once, when the channel closes."""
        try:
            super().restore_unacked_once(*args, **kwargs)
        finally:
            self._ahead.hang_up()
