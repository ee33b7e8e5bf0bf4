"""Publishing to the broker through kombu, with no query to the broker that need not be.

A message goes to its queue by name, over a connection that is held; a queue is declared once by each process.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import kombu
from kombu.exceptions import KombuError, OperationalError
from kombu.transport import get_transport_cls

from foreseen import signing
from foreseen.errors import BrokerUnavailable
from foreseen.keys import KeySpace
from foreseen.message import CONTENT_TYPE, MAX_PRIORITY, Message
from foreseen.settings import Settings
from foreseen.tls import broker_address

__all__ = ["Publisher", "queue_for", "transport_options", "wire_priority"]

#: Priorities share these lists in Redis: each list is one more key that every BRPOP of a worker names.
_REDIS_STEPS: Final = [0, 3, 6, 9]
#: By name, so that it is imported when a connection is opened.
_TRANSPORT: Final = "foreseen.transport:Transport"


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


def queue_for(settings: Settings, model_id: str) -> kombu.Queue:
    """Return the queue of `model@version`, bound to nothing but its own name."""
    name = KeySpace(settings.namespace).queue(model_id)
    arguments = None if is_redis(settings.broker_url) else {"x-max-priority": MAX_PRIORITY}
    return kombu.Queue(name, exchange=kombu.Exchange(""), routing_key=name, durable=True, queue_arguments=arguments)


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
        get_transport_cls(_TRANSPORT)  # now: a fork while some thread imported it would leave the child a locked import

    def publish(self, messages: Sequence[Message]) -> None:
        """Send messages; when it returns, the broker has them.

        Raises:
            BrokerUnavailable: it does not answer; some may have been sent, and sending them again does no harm.
        """
        try:
            producer = self._idle.pop()
        except IndexError:
            self._publish_on(self._open(), messages)
            return
        try:
            self._publish_on(producer, messages)
        except BrokerUnavailable:  # an idle connection that the broker has closed meanwhile
            self._publish_on(self._open(), messages)

    def close(self) -> None:
        """Close idle connections; ones in use are closed when they come back."""
        self._closed = True
        while self._idle:
            _discard(self._idle.pop())

    def _publish_on(self, producer: Any, messages: Sequence[Message]) -> None:
        refusals = (*producer.connection.connection_errors, *producer.connection.channel_errors)  # a full Redis, too
        try:
            if len(messages) == 1:
                self._send(producer, messages[0])
            else:
                with producer.batch():
                    for message in messages:
                        self._send(producer, message)
        except BaseException as error:
            _discard(producer)
            if isinstance(error, (OSError, KombuError, *refusals)):
                raise self._unavailable(error) from error
            raise
        if self._closed:
            _discard(producer)
        else:
            self._idle.append(producer)

    def _send(self, producer: Any, message: Message) -> None:
        queue = self._space.queue(message.model_id)
        if not self._is_redis and queue not in self._declared:  # Redis makes a list when something is put in it
            queue_for(self._settings, message.model_id)(producer.channel).declare()
            self._declared.add(queue)
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
        url, ssl = broker_address(self._settings.broker_url)
        connection: Any = kombu.Connection(
            url,
            ssl=ssl,
            transport=_TRANSPORT if self._settings.broker_url.startswith(("redis://", "rediss://")) else None,
            connect_timeout=self._settings.connect_timeout_s,  # pyright: ignore[reportArgumentType] - seconds, as a float too
            transport_options=transport_options(self._settings),
        )
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=self._settings.connect_timeout_s)
            return kombu.Producer(connection.channel(), auto_declare=False)
        except (OSError, KombuError, *connection.connection_errors) as error:
            connection.release()
            raise self._unavailable(error) from error

    def _unavailable(self, error: BaseException) -> BrokerUnavailable:
        where = kombu.Connection(broker_address(self._settings.broker_url)[0]).as_uri()
        cause = error.__cause__ if isinstance(error, OperationalError) and error.__cause__ else error
        return BrokerUnavailable(f"The broker at {where} does not take messages: {cause}")


def _discard(producer: Any) -> None:
    with suppress(Exception):  # the connection is broken as often as not; all that matters is that it is let go
        producer.connection.release()
