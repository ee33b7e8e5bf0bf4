"""kombu's Redis transport with eight things changed.

- **A channel keeps its client.** kombu builds a redis-py client for each command it sends, which costs some 90 µs, more
  than the round trip itself. A client holds nothing but its pool; with a new pool comes a new client.
- **What is unacked is noted without waiting** for the broker's reply (`foreseen/unacked.py`).
- **A channel whose connection was closed says so** with the error of a lost connection, which Celery expects and
  recovers from; kombu's runs into an `AttributeError`, which ends the worker.
- **What lies in a queue and is no message is dropped** and logged, without its content. kombu raises on it, which ends
  the worker.
- **Only workers deliver again** what was taken too long ago and not settled; in kombu whoever has a channel does, and
  Flower would need the right to every message for it.
- **A loop is told once which sockets to watch**, and no more of a connection that was closed. kombu tells it in each
  turn, of which a message takes four, and each time a system call fails; and a loop keeps what it was told for ever.
- **Whoever has no bindings leaves those of others alone**: kombu has everybody who reads a queue that expires, as
  replies are, look for others' that are overdue, and a producer would need the right to them for it.
- **A forked child gets new locks.** Each of kombu's cached properties has one lock for its whole class, held even while
  it connects to a broker; one that another thread held at the fork would stay locked in the child for ever.
"""

from __future__ import annotations

import logging
import os
import threading
from base64 import b64decode
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any, Final

import kombu
from kombu.transport import redis
from kombu.utils.objects import cached_property
from redis.exceptions import ConnectionError as ConnectionLost

from foreseen.unacked import QoS

__all__ = ["Channel", "Transport"]

log = logging.getLogger("foreseen.worker")


#: In a row, by who takes one message: each has left the queue, but whoever fills it may be faster.
_MOST_REFUSED: Final = 10_000


def _log_refusal(reason: str, queue: str) -> None:
    log.error("refused %s, from %s", reason, queue or "a queue")


class Channel(redis.Channel):
    """A channel that keeps its client, and its head."""

    QoS = QoS
    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        if asynchronous:
            return super()._create_client(asynchronous)
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept

    def _connparams(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        if self.connection is None or self.connection.client is None:
            raise ConnectionLost("the channel's connection is closed")
        return super()._connparams(asynchronous)

    def sweep_bindings(self, limit: int = 100) -> Any:
        """Delete overdue bindings, for somebody who has some."""
        if any(list(self.state.queue_bindings(queue)) for queue in self._active_queues):
            return super().sweep_bindings(limit)
        return 0

    def _brpop_read(self, **options: Any) -> Any:
        transport: Any = self.connection
        transport.has_read = False
        try:
            return super()._brpop_read(**options)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ArithmeticError) as error:
            if transport.has_read:  # raised by whoever handles the message
                raise
            transport.on_refused(f"what is no message: {type(error).__name__}", "")
            return True

    def _get(self, queue: str) -> Any:
        transport: Any = self.connection
        for _ in range(_MOST_REFUSED):
            try:
                message = super()._get(queue)  # an empty queue raises, and is left to
            except (ValueError, TypeError, RecursionError, ArithmeticError):
                message = None
            if _is_message(message):
                return message
            transport.on_refused("what is no message", queue)
        raise Empty


class Transport(redis.Transport):
    """The transport that makes such channels."""

    Channel = Channel
    has_read = False
    #: Whether this process delivers again what other workers took and did not settle.
    restores = False
    #: Told of what was dropped: why, and from which queue.
    on_refused: Callable[[str, str], None] = staticmethod(_log_refusal)

    _stop_watching: Callable[[], None] | None = None

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have a loop watch the sockets of the channels, those too that are opened later."""
        others = frozenset(loop.on_tick)
        super().register_with_event_loop(connection, loop)
        loop.on_tick &= others
        cycle: Any = self.cycle
        watched: dict[int, Any] = {}  # by the number, which the system gives to another socket once one is closed

        def watch() -> None:
            cycle.on_poll_start()
            for sock in cycle._chan_to_sock.values():  # noqa: SLF001 - nothing else tells a socket from its number
                number = sock.fileno()
                is_watched = watched.get(number) is sock and number in loop.readers
                if not is_watched and number in cycle.fds:
                    loop.add_reader(number, self.on_readable, number)
                    watched[number] = sock

        loop.on_tick.add(watch)
        self._stop_watching = partial(loop.on_tick.discard, watch)

    def close_connection(self, connection: Any) -> None:
        """Close all channels."""
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
        super().close_connection(connection)

    def _deliver(self, message: Any, queue: str) -> None:
        self.has_read = True
        if _is_message(message):
            super()._deliver(message, queue)
        else:
            self.on_refused("what is no message", queue)


def _is_message(message: Any) -> bool:
    """Tell whether it has the parts that kombu takes for granted, of the types that it takes for granted."""
    match message:
        case {
            "body": str(body),
            "properties": {
                "delivery_tag": str(),
                "delivery_info": {"exchange": str(), "routing_key": str()},
            } as properties,
        }:
            headers = message.get("headers")
            return (headers is None or isinstance(headers, dict)) and _has_body(body, properties.get("body_encoding"))
        case _:
            return False


def _has_body(body: str, encoding: Any) -> bool:
    """Tell whether kombu can decode it."""
    if encoding == "base64":
        try:
            b64decode(body)
        except ValueError:
            return False
        return True
    return encoding is None or (isinstance(encoding, str) and encoding.lower() == "utf-8")


def _renew_locks() -> None:
    for cls in {*Channel.__mro__, *Transport.__mro__, *kombu.Connection.__mro__, *kombu.Producer.__mro__}:
        for value in vars(cls).values():
            if isinstance(value, cached_property):
                value.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
