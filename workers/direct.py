"""Messages that ask for a reply: computed without the cache, which does not answer whoever sent them.

Nothing of them is begun, kept or told in the cache; outcomes go to the producer's queue of replies. What the cache
decides else is decided from the message alone: a deadline by this worker's clock, attempts by its number among its
copies, since each delivery that comes back is sent again as the next copy, its items one by one. So a worker's restart
is an attempt too: without the cache nobody can tell it from a death.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from foreseen.broker import Publisher
from foreseen.entry import Entry, Kind, payload_of
from foreseen.holding import Begin, Begun
from foreseen.message import Item, Message
from foreseen.replies import Reply

__all__ = ["begin", "reply"]


def begin(message: Message, items: Iterable[Item], max_attempts: int) -> list[Begun]:
    """Say of each item what `foreseen.flights.Flights.begin` would: run it, or what it fails with."""
    now_ms = time.time() * 1000
    return [_begun(message, item, max_attempts, now_ms) for item in items]


def reply(publisher: Publisher, outcomes: Sequence[tuple[Message, Item, Kind, bytes]]) -> None:
    """Send outcomes to whoever asked: the message, the item, and the entry's kind and body.

    Raises:
        BrokerUnavailable: the deliveries go back to the broker.
    """
    publisher.publish(
        [Reply(message.reply_to, item.key, item.token, _entry(kind, body)) for message, item, kind, body in outcomes]
    )


def _begun(message: Message, item: Item, max_attempts: int, now_ms: float) -> Begun:
    if item.deadline_ms and item.deadline_ms <= now_ms:
        return Begun(Begin.EXPIRED, item.token)
    if message.copies > max_attempts:
        return Begun(Begin.EXHAUSTED, item.token, deaths=message.copies, last_death="not known, without the cache")
    left_ms = round(item.deadline_ms - now_ms) if item.deadline_ms else 0
    return Begun(Begin.RUN, item.token, deadline_left_ms=left_ms)


def _entry(kind: Kind, body: bytes) -> Entry:
    """Return the entry that an outcome would be, of no generation."""
    now_ms = round(time.time() * 1000)
    return Entry(kind, bytes(8), 0, now_ms, now_ms, 0, payload_of(body))
