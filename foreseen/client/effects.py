"""What the engine asks of whoever runs it: the protocol is written once, as steps that do no I/O themselves.

A step is a generator that yields effects and is sent their results; an effect that fails is thrown into it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from foreseen.cache import Command
from foreseen.flights import Call
from foreseen.message import Message

__all__ = ["Ask", "Effect", "Pause", "Read", "Send", "Steps"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """Run scripts in one round trip; the result is the list of what they say."""

    calls: Sequence[Call[Any]]


@dataclass(frozen=True, slots=True)
class Read:
    """Send plain commands in one round trip; the result is the list of raw replies."""

    commands: Sequence[Command]


@dataclass(frozen=True, slots=True)
class Send:
    """Publish messages; returns once the broker has them."""

    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait, without holding up anybody else."""

    seconds: float


Effect: TypeAlias = Ask | Read | Send | Pause
Steps: TypeAlias = Generator[Effect, Any, T]
