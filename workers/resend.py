"""What of a delivery goes on in messages of its own, published before the delivery is acked, never after."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from foreseen.flights import Call
from foreseen.message import Item, Message
from workers.patience import insist
from workers.runtime import Runtime

__all__ = ["Held", "Resend", "send_again"]


class Held(NamedTuple):
    """An item whose flight, `token`, a live holder runs for `left_s` seconds yet, unless it renews.

    `waiting` is that holder, where it is this process's own and waits for other predictions.
    """

    item: Item
    token: str
    left_s: float
    waiting: str = ""


@dataclass(slots=True)
class Resend:
    """Items of a message that go into messages of their own.

    Attributes:
        message: as it was delivered.
        now: due now, together.
        alone: due now, each in a message of its own.
        held: due when the last of their leases ends.
    """

    message: Message
    now: list[Item] = field(default_factory=list[Item])
    alone: list[Item] = field(default_factory=list[Item])
    held: list[Held] = field(default_factory=list[Held])


def send_again(runtime: Runtime, resends: Iterable[Resend]) -> int:
    """Publish what stands in for these items, and only then note the copies; return how many messages that took.

    Raises:
        BrokerUnavailable: nothing was published; the delivery goes back to the broker.
        CacheUnavailable, UnsupportedLayout: a copy was not noted; likewise.
    """
    messages: list[Message] = []
    copies: list[Call[bool]] = []
    for resend in resends:
        messages += [resend.message.again([item]) for item in resend.alone]
        if resend.now:
            messages.append(resend.message.again(resend.now))
        if resend.held:
            due_s = max(held.left_s for held in resend.held)
            copy = resend.message.again([held.item for held in resend.held], due_s=due_s)
            messages.append(copy)
            copies += [
                runtime.flights.copied(held.item.key, held.token, copy.id, copy.copies, held.item.token)
                for held in resend.held
            ]
            copies += [
                runtime.flights.renew(held.item.key, held.waiting, waits=True) for held in resend.held if held.waiting
            ]
    if messages:
        runtime.publisher.publish(messages)
    if copies:
        insist(runtime.cache, copies)
    return len(messages)
