"""Dead letters: inputs that workers gave up on, kept in a queue of the broker for an operator.

A letter says what was given up, why, when and how often it was tried; with the input, unless the deployment keeps that
out, so that it can be tried again. Nobody consumes the queue: whoever looks takes its letters, and puts back what it
does not strike out.

Body: msgpack `[layout, key, failure, at_ms, text, [blob, …]]`; `text` is nil if the input is not kept.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

import kombu
import msgpack
from kombu.exceptions import KombuError

from foreseen.broker import open_connection, queue_for, unavailable
from foreseen.canonical import CanonicalInput
from foreseen.errors import InvalidKey, MalformedMessage, PredictionFailed
from foreseen.keys import Key, KeySpace, digest_of
from foreseen.message import MAX_PRIORITY, new_task_id
from foreseen.settings import Settings
from foreseen.signing import Keyring

__all__ = ["DeadLetter", "Kept", "dead_letters"]

_LAYOUT: Final = 1


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An input that is not tried again by itself.

    Attributes:
        key: of the input.
        failure: what everybody who waited was told.
        at_ms: when, in ms since 1970 by the worker's clock.
        canonical: the input; None if it was not kept.
        id: of the message.
    """

    key: Key
    failure: PredictionFailed
    at_ms: int
    canonical: CanonicalInput | None
    id: str = field(default_factory=new_task_id)

    #: All letters have one, so that they are taken in one go.
    priority = MAX_PRIORITY

    def queue(self, space: KeySpace) -> str:
        """Return the queue that it belongs in."""
        return space.dead_letters()

    def headers(self) -> dict[str, Any]:
        """Return the message's headers: what its signature is over, beside the body."""
        return {"task": "foreseen.dead-letter", "id": self.id}

    def body(self) -> bytes:
        """Return the letter as it travels."""
        text, blobs = (self.canonical.text, self.canonical.blobs) if self.canonical else (None, ())
        letter = [_LAYOUT, str(self.key), self.failure.to_wire(), self.at_ms, text, blobs]
        return cast("bytes", msgpack.packb(letter, use_bin_type=True))

    @classmethod
    def read(cls, body: Any) -> DeadLetter:
        """Read what `body` wrote.

        Raises:
            MalformedMessage: anything else, or an input that is not its key's.
        """
        try:
            letter = msgpack.unpackb(body)
            match letter:
                case [1, str(key), dict(failure), int(at_ms), bytes() | None as text, list(blobs)] if all(
                    isinstance(blob, bytes) for blob in blobs
                ):
                    canonical = None if text is None else CanonicalInput(text, tuple(blobs))
                    read = cls(Key.parse(key), PredictionFailed.from_wire(failure), at_ms, canonical)
                case _:
                    raise MalformedMessage("a dead letter that is not [1, key, failure, at_ms, text, blobs]")
        except InvalidKey as error:
            raise MalformedMessage(f"a dead letter of no key: {error}") from None
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
            raise MalformedMessage(f"a dead letter that cannot be decoded: {type(error).__name__}") from None
        if canonical and digest_of(read.key.model, read.key.version, canonical.text) != read.key.digest:
            raise MalformedMessage(f"a dead letter whose input is not that of {read.key.short}")
        return read


@dataclass(frozen=True, slots=True)
class Kept:
    """A letter in the broker's queue; `letter` is None if it cannot be read."""

    letter: DeadLetter | None
    _message: Any

    def drop(self) -> None:
        """Strike it out."""
        self._message.ack()


@contextmanager
def dead_letters(settings: Settings) -> Generator[list[Kept]]:
    """Take all letters, oldest first; those that are not dropped in the block go back when it ends.

    Should this process be killed within, they come back after the visibility timeout.

    Raises:
        BrokerUnavailable: it does not answer.
    """
    space = KeySpace(settings.namespace)
    connection = open_connection(settings)
    try:
        channel = connection.channel()
        queue: Any = queue_for(settings, space.dead_letters())(channel)
        queue.declare()
        yield list(_taken(queue, settings.keyring()))
        channel.close()
    except (OSError, KombuError, *connection.connection_errors, *connection.channel_errors) as error:
        raise unavailable(settings, error) from error
    finally:
        connection.release()


def _taken(queue: kombu.Queue, keyring: Keyring) -> Generator[Kept]:
    while True:
        message: Any = queue.get(no_ack=False)
        if message is None:
            return
        letter = None
        with suppress(MalformedMessage):
            if keyring:
                keyring.check_message(message.headers, message.body)
            letter = DeadLetter.read(message.body)
        yield Kept(letter, message)
