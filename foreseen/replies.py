"""Replies: outcomes that a worker sends to a producer's own queue in the broker, when there is no cache to tell them.

A reply holds what a push would hold (docs/protocol.md), an entry included, so that whoever hears it takes it in as one.

Body: msgpack, one binary: the push
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

import kombu
import msgpack
from kombu.exceptions import KombuError

from foreseen.broker import open_connection, queue_for, unavailable
from foreseen.entry import Entry
from foreseen.errors import MalformedMessage
from foreseen.keys import Key, KeySpace
from foreseen.message import MAX_PRIORITY, new_task_id
from foreseen.settings import Settings

__all__ = ["Reply", "hearing", "read"]

_TASK: Final = "foreseen.reply"


@dataclass(frozen=True, slots=True)
class Reply:
    """An outcome, on its way.

    Attributes:
        to: the queue.
        key: of the input.
        token: of the submission that asked.
        entry: the outcome; it is kept nowhere.
        id: of the message.
    """

    to: str
    key: Key
    token: str
    entry: Entry
    id: str = field(default_factory=new_task_id)

    #: A queue of replies has one.
    priority = MAX_PRIORITY

    def queue(self, space: KeySpace) -> str:
        """Return the name of the queue."""
        del space
        return self.to

    def headers(self) -> dict[str, Any]:
        """Return the message's headers: what its signature is over, beside the body."""
        return {"task": _TASK, "id": self.id}

    def body(self) -> bytes:
        """Return the reply as it travels."""
        push = f"{self.key} {self.token}\n".encode() + self.entry.encode()
        return cast("bytes", msgpack.packb(push, use_bin_type=True))


def read(settings: Settings, message: Any) -> bytes:
    """Return the push that a message of the queue holds.

    Raises:
        MalformedMessage: it is not signed where it has to be, or is no reply.
    """
    if keyring := settings.keyring():
        keyring.check_message(message.headers, message.body)
    try:
        push = msgpack.unpackb(message.body)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedMessage(f"a reply that cannot be decoded: {type(error).__name__}") from None
    if not isinstance(push, bytes):
        raise MalformedMessage("a reply that is no push")
    return push


@contextmanager
def hearing(settings: Settings, queue: str, on_message: Callable[[Any], None]) -> Generator[Callable[[float], None]]:
    """Consume a queue of replies in the block; yields what hands out messages for at most so many seconds.

    Raises:
        BrokerUnavailable: it does not answer, or no longer does.
    """
    connection = open_connection(settings)
    refusals = (OSError, KombuError, *connection.connection_errors, *connection.channel_errors)

    def hear(seconds: float) -> None:
        with suppress(TimeoutError):  # nothing came
            connection.drain_events(timeout=seconds)

    try:
        consumer: Any = kombu.Consumer(
            connection.channel(), [queue_for(settings, queue)], on_message=on_message, no_ack=True, auto_declare=True
        )
        with consumer:
            yield hear
    except refusals as error:
        raise unavailable(settings, error) from error
    finally:
        connection.release()
