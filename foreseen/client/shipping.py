"""Items of many callers in few messages: what waits to be published at the same moment travels together."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeAlias

from foreseen.broker import Publisher
from foreseen.client.effects import Send
from foreseen.errors import ForeseenError
from foreseen.keys import KeySpace
from foreseen.message import Item, Message, pack_items
from foreseen.settings import Settings

__all__ = ["Shipped", "Shipping", "outcome_of"]

#: What became of one caller's items: the tokens for which there was no room in the queue, or why none were sent.
Shipped: TypeAlias = "frozenset[str] | ForeseenError"


class Shipping:
    """Packs what callers send, and publishes it.

    Args:
        settings: of the deployment.
        publisher: to the broker.
    """

    def __init__(self, settings: Settings, publisher: Publisher) -> None:
        self._space = KeySpace(settings.namespace)
        self._max_bytes = settings.max_input_bytes
        self._publisher = publisher

    def ship(self, sends: Sequence[Send]) -> list[Shipped]:
        """Publish what several callers send; return what became of each one's items, in order."""
        by_model: dict[tuple[str, str], list[Send]] = {}
        for send in sends:
            by_model.setdefault((send.model_id, send.reply_to), []).append(send)
        shipped: dict[int, Shipped] = {}
        for group in by_model.values():
            refused: frozenset[str] = frozenset()
            error: ForeseenError | None = None
            try:
                refused = self._ship_group(group)
            except ForeseenError as refusal:  # of this model's queue, perhaps: the others may be taken
                error = refusal
            for send in group:
                shipped[id(send)] = refused if error is None else _own(error)
        return [shipped[id(send)] for send in sends]

    def _ship_group(self, group: Sequence[Send]) -> frozenset[str]:
        """Publish items of one model; return the tokens of those for which there was no room."""
        messages = self.pack(group)
        for send in group:  # before: an outcome may be here sooner than this goes on
            send.told({item.token: message.id for message in messages for item in message.items})
        queue, most = self._space.queue(group[0].model_id), group[-1].max_queued
        refused = self._publisher.publish(messages, {queue: most} if most is not None else {})
        return frozenset(item.token for message in refused for item in message.items)

    def pack(self, group: Sequence[Send]) -> list[Message]:
        """Return messages for items of one model; those of one flight and priority, which two callers led, once."""
        items: dict[tuple[str, int], tuple[Item, int]] = {
            (item.token, priority): (item, priority) for send in group for item, priority in send.items
        }
        sent_ms = max(send.sent_ms for send in group)
        batch_size, reply_to = group[-1].batch_size, group[0].reply_to
        return pack_items(group[0].model_id, list(items.values()), sent_ms, batch_size, self._max_bytes, reply_to)


def outcome_of(shipped: Shipped) -> frozenset[str]:
    """Return the tokens for which there was no room, or raise why nothing was sent."""
    if isinstance(shipped, ForeseenError):
        raise shipped
    return shipped


def _own(error: ForeseenError) -> ForeseenError:
    """Return an error that one caller alone raises: raising adds to its traceback."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own
