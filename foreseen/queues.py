"""How many messages wait in the broker's queues, whatever broker it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kombu
from kombu.exceptions import ChannelError, KombuError

from foreseen.broker import transport_options
from foreseen.errors import BrokerUnavailable
from foreseen.settings import Settings
from foreseen.tls import broker_address

__all__ = ["depth", "depths"]


def depths(settings: Settings, queues: Sequence[str]) -> list[int]:
    """Return how many messages wait in each queue.

    A message holds up to a batch of inputs. One that a worker has taken and not acked waits no more. In a Redis broker
    a queue is several lists, one for a range of priorities; kombu sums them up.

    Raises:
        BrokerUnavailable: it does not answer.
    """
    if not queues:
        return []
    url, ssl = broker_address(settings.broker_url)
    connection: Any = kombu.Connection(
        url,
        ssl=ssl,
        connect_timeout=settings.connect_timeout_s,  # pyright: ignore[reportArgumentType] - seconds, as a float too
        transport_options=transport_options(settings),
    )
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=settings.connect_timeout_s)
        return [depth(connection, queue) for queue in queues]
    except (OSError, KombuError, *connection.connection_errors) as error:
        cause = error.__cause__ or error
        raise BrokerUnavailable(f"The broker at {connection.as_uri()} does not answer: {cause}") from error
    finally:
        connection.release()


def depth(connection: Any, queue: str) -> int:
    """Return how many messages wait in a queue, on a connection that is open."""
    # A channel each: AMQP closes the one on which it was asked for a queue that is not there.
    with connection.channel() as channel:
        try:
            return int(channel.queue_declare(queue=queue, passive=True).message_count)
        except (ChannelError, *connection.channel_errors):  # nobody has sent to it yet; in Redis, none are left
            return 0
