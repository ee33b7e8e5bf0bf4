"""What the engine asks of whoever runs it: the protocol is written once, as steps that do no I/O themselves.

A step is a generator that yields effects and is sent their results; an effect that fails is thrown into it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from foreseen.cache import Command
from foreseen.flights import Call
from foreseen.message import Message

__all__ = ["Ask", "Effect", "HearReplies", "Pause", "Read", "Send", "Steps"]

T = TypeVar("T")


class Ask(NamedTuple):
    """Run scripts in one round trip; the result is the list of what they say."""

    calls: Sequence[Call[Any]]


class Read(NamedTuple):
    """Send plain commands in one round trip; the result is the list of raw replies."""

    commands: Sequence[Command]


class Send(NamedTuple):
    """Publish messages; returns, once the broker has them, those for which a queue, within its bound, had no room."""

    messages: Sequence[Message]
    bounds: Mapping[str, int]


class HearReplies(NamedTuple):
    """Hear, from now on, what the broker brings of outcomes; returns once none can be missed."""


class Pause(NamedTuple):
    """Wait, without holding up anybody else."""

    seconds: float


Effect: TypeAlias = Ask | Read | Send | HearReplies | Pause
Steps: TypeAlias = Generator[Effect, Any, T]
