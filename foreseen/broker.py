"""Publishing to the broker through kombu, with no query to the broker that need not be.

A message goes to its queue by name, over a connection that is held; a queue is declared once by each process. `import
kombu` imports next to nothing; what it stands for is imported when a publisher is made.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

import kombu

from foreseen import signing
from foreseen.errors import BrokerUnavailable, QueueFull
from foreseen.keys import KeySpace
from foreseen.message import CONTENT_TYPE, MAX_PRIORITY
from foreseen.settings import Settings
from foreseen.tls import broker_address

__all__ = [
    "Publishable", "Publisher", "open_connection", "queue_for", "transport_options", "unavailable", "wire_priority",
]  # fmt: skip

#: Priorities share these lists in Redis: each list is one more key that every BRPOP of a worker names.
_REDIS_STEPS: Final = [0, 3, 6, 9]
#: How long a queue of replies is kept when nobody reads it: several times what opening a lost connection again takes.
_REPLIES_KEPT_S: Final = 60
#: By name, so that it is imported when a connection is opened.
_TRANSPORT: Final = "foreseen.transport:Transport"
#: What an AMQP client raises when a broker that has a bound of its own on a queue refuses a message; not installed with
#: every broker, so by name.
_NACKED: Final = "MessageNacked"


def is_redis(url: str) -> bool:
    """Tell whether the broker is Redis or Valkey."""
    return url.startswith(("redis", "sentinel", "valkey"))


def wire_priority(url: str, priority: int) -> int:
    """Return what the transport calls `priority`: kombu's Redis serves 0 first, AMQP the highest."""
    return MAX_PRIORITY - priority if is_redis(url) else priority


def transport_options(settings: Settings) -> dict[str, Any]:
    """Return kombu's options for this broker, for producers and workers alike: they must agree."""
    if not is_redis(settings.broker_url):
        return {"confirm_publish": True}
    return {
        "visibility_timeout": settings.visibility_timeout_s,
        # kombu looks for unacked messages to restore every interval x throttle seconds; 100 by default.
        "unacked_restore_interval": max(1.0, min(10.0, settings.visibility_timeout_s / 4)),
        "unacked_restore_throttle": 1,
        # A worker that is killed while it restores keeps the others from it for this long; 5 minutes by default.
        "unacked_mutex_expire": max(1, min(300, round(settings.visibility_timeout_s / 2))),
        "priority_steps": _REDIS_STEPS,
        "queue_order_strategy": "priority",
        "socket_connect_timeout": settings.connect_timeout_s,
        "socket_timeout": settings.reply_timeout_s,
        "socket_keepalive": True,
    }


def queue_for(settings: Settings, name: str) -> kombu.Queue:
    """Return the queue of that name, bound to nothing but it; one for replies goes by itself once nobody uses it."""
    is_replies = KeySpace(settings.namespace).is_replies(name)
    has_priorities = not is_replies and not is_redis(settings.broker_url)
    return kombu.Queue(
        name,
        exchange=kombu.Exchange(""),
        routing_key=name,
        durable=True,
        expires=_REPLIES_KEPT_S if is_replies else None,
        queue_arguments={"x-max-priority": MAX_PRIORITY} if has_priorities else None,
    )


def open_connection(settings: Settings) -> Any:
    """Return a connection that the broker has answered on.

    Raises:
        BrokerUnavailable: it does not.
    """
    from kombu.exceptions import KombuError

    url, ssl = broker_address(settings.broker_url)
    connection: Any = kombu.Connection(
        url,
        ssl=ssl,
        transport=_TRANSPORT if settings.broker_url.startswith(("redis://", "rediss://")) else None,
        connect_timeout=settings.connect_timeout_s,  # pyright: ignore[reportArgumentType] - seconds, as a float too
        transport_options=transport_options(settings),
    )
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=settings.connect_timeout_s)
    except (OSError, KombuError, *connection.connection_errors) as error:
        connection.release()
        raise unavailable(settings, error) from error
    return connection


def unavailable(settings: Settings, error: BaseException) -> BrokerUnavailable:
    """Return the error that says which broker it was."""
    from kombu.exceptions import OperationalError

    where = kombu.Connection(broker_address(settings.broker_url)[0]).as_uri()
    cause = error.__cause__ if isinstance(error, OperationalError) and error.__cause__ else error
    return BrokerUnavailable(f"The broker at {where} does not take messages: {cause}")


class Publishable(Protocol):
    """What can be sent: to which queue, and what."""

    @property
    def id(self) -> str:
        """Of the message."""
        ...

    @property
    def priority(self) -> int:
        """0 to 9, 9 first."""
        ...

    def queue(self, space: KeySpace) -> str:
        """Return the name of the queue."""
        ...

    def headers(self) -> dict[str, Any]:
        """Return the message's headers."""
        ...

    def body(self) -> bytes:
        """Return the message's body, in msgpack."""
        ...


P = TypeVar("P", bound=Publishable)
_UNBOUNDED: Final[Mapping[str, int]] = {}


class Publisher:
    """The broker, for one process; threads borrow its connections.

    Args:
        settings: where the broker is, and the bounds on waiting for it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._space = KeySpace(settings.namespace)
        self._is_redis = is_redis(settings.broker_url)
        self._keyring = settings.keyring()
        self._declared: set[str] = set()
        self._idle: deque[Any] = deque()
        self._closed = False
        self._origin = f"{os.getpid()}@{socket.gethostname()}"
        from kombu.transport import get_transport_cls

        get_transport_cls(_TRANSPORT)  # now: a fork while some thread imported it would leave the child a locked import

    def publish(self, messages: Sequence[P], bounds: Mapping[str, int] = _UNBOUNDED) -> list[P]:
        """Send messages; when it returns, the broker has them.

        Args:
            messages: at least one.
            bounds: of a queue, how many messages may wait in it; to look costs a round trip. What others send at the
                same moment is not counted.

        Returns:
            Those that were not sent, since their queue is full.

        Raises:
            BrokerUnavailable: it does not answer; some may have been sent, and sending them again does no harm.
        """
        try:
            producer = self._idle.pop()
        except IndexError:
            return self._publish_on(self._open(), messages, bounds)
        try:
            return self._publish_on(producer, messages, bounds)
        except BrokerUnavailable:  # an idle connection that the broker has closed meanwhile
            return self._publish_on(self._open(), messages, bounds)

    def close(self) -> None:
        """Close idle connections; ones in use are closed when they come back."""
        self._closed = True
        while self._idle:
            _discard(self._idle.pop())

    def _publish_on(self, producer: Any, messages: Sequence[P], bounds: Mapping[str, int]) -> list[P]:
        refusals = (*producer.connection.connection_errors, *producer.connection.channel_errors)  # a full Redis, too
        refused: list[P] = []
        try:
            if bounds:
                messages, refused = self._fitting(producer.channel, messages, bounds)
            if len(messages) == 1:
                self._send(producer, messages[0])
            elif messages:
                with producer.batch():
                    for message in messages:
                        self._send(producer, message)
        except BaseException as error:
            _discard(producer)
            if type(error).__name__ == _NACKED:
                raise QueueFull(
                    "The broker refused a message, since it has a bound of its own on the queue."
                ) from error
            from kombu.exceptions import KombuError

            if isinstance(error, (OSError, KombuError, *refusals)):
                raise unavailable(self._settings, error) from error
            raise
        if self._closed:
            _discard(producer)
        else:
            self._idle.append(producer)
        return refused

    def _fitting(self, channel: Any, messages: Sequence[P], bounds: Mapping[str, int]) -> tuple[list[P], list[P]]:
        """Tell those for which there is room from those for which there is none."""
        room: dict[str, int] = {}
        fitting: list[P] = []
        refused: list[P] = []
        for message in messages:
            queue = message.queue(self._space)
            if queue in bounds and queue not in room:
                room[queue] = bounds[queue] - self._depth(channel, queue)
            left = room.get(queue, 1)
            (fitting if left > 0 else refused).append(message)
            if queue in room:
                room[queue] = left - 1
        return fitting, refused

    def _depth(self, channel: Any, queue: str) -> int:
        """Return how many messages wait in a queue."""
        if self._is_redis:
            return int(channel._size(queue))  # noqa: SLF001 - asked in public, it first asks whether the queue exists
        self._declare(channel, queue)
        return int(channel.queue_declare(queue=queue, passive=True).message_count)

    def _declare(self, channel: Any, queue: str) -> None:
        """Make a queue, once; Redis makes a list when something is put in it, but has to be told of its expiry."""
        if self._is_redis and not self._space.is_replies(queue):
            return
        if self._is_redis or queue not in self._declared:
            queue_for(self._settings, queue)(channel).declare()
            self._declared.add(queue)

    def _send(self, producer: Any, message: Publishable) -> None:
        queue = message.queue(self._space)
        self._declare(producer.channel, queue)
        body, headers = message.body(), {**message.headers(), "origin": self._origin}
        if self._keyring:
            headers[signing.HEADER] = self._keyring.sign_message(headers, body)
        producer.publish(
            body,
            routing_key=queue,
            exchange="",
            priority=wire_priority(self._settings.broker_url, message.priority),
            content_type=CONTENT_TYPE,
            content_encoding="binary",
            headers=headers,
            correlation_id=message.id,
            delivery_mode=2,
            timeout=self._settings.reply_timeout_s,
        )

    def _open(self) -> Any:
        from kombu.exceptions import KombuError

        connection = open_connection(self._settings)
        try:
            return kombu.Producer(connection.channel(), auto_declare=False)
        except (OSError, KombuError, *connection.connection_errors) as error:
            connection.release()
            raise unavailable(self._settings, error) from error


def _discard(producer: Any) -> None:
    with suppress(Exception):  # the connection is broken as often as not; all that matters is that it is let go
        producer.connection.release()
