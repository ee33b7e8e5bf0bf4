"""What the engine asks of whoever runs it: the protocol is written once, as steps that do no I/O themselves.

A step is a generator that yields effects and is sent their results; an effect that fails is thrown into it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from foreseen.flights import Call
from foreseen.message import Item
from foreseen.parcels import Command

__all__ = ["Ask", "Effect", "HearReplies", "Pause", "Read", "Send", "Steps"]

T = TypeVar("T")


class Ask(NamedTuple):
    """Run scripts in one round trip; the result is the list of what they say."""

    calls: Sequence[Call[Any]]


class Read(NamedTuple):
    """Send plain commands in one round trip; the result is the list of raw replies."""

    commands: Sequence[Command]


class Send(NamedTuple):
    """Publish items of one model; others that wait to be published then may share their messages.

    The result, once the broker has them, is the set of tokens for which the queue, within its bound, had no room.

    Attributes:
        model_id: `model@version`.
        items: each with its priority.
        sent_ms: by the cache server's clock.
        batch_size: items that a message may hold.
        max_queued: messages that may wait for the model; None is any number.
        told: called, before they go, with the id of the message that each token goes in.
        reply_to: queue that outcomes are to be sent to, instead of to flights; or `foreseen.message.AUDIT`.
    """

    model_id: str
    items: Sequence[tuple[Item, int]]
    sent_ms: int
    batch_size: int
    max_queued: int | None
    told: Callable[[Mapping[str, str]], None]
    reply_to: str = ""


class HearReplies:
    """Hear, from now on, what the broker brings of outcomes; returns once none can be missed."""


class Pause(NamedTuple):
    """Wait, without holding up anybody else."""

    seconds: float


Effect: TypeAlias = Ask | Read | Send | HearReplies | Pause
Steps: TypeAlias = Generator[Effect, Any, T]
