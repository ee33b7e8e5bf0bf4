"""Every error that foreseen raises, as one tree.

    ForeseenError
    ├── InvalidInput              the input does not fit the model, or cannot be canonical
    ├── InvalidKey                a text that is not `model@version:digest`
    ├── ModelNotServed            no worker has published a card for that name
    ├── UnknownKey                `pending(key)`: no entry and no flight for that key
    ├── PredictionTimeout         the caller's own timeout ran out; the computation may go on
    ├── ProducerClosed            the producer was closed while somebody waited
    ├── WrongLoop                 an `AsyncProducer` was used from another event loop than its own
    ├── CacheUnavailable          the cache server does not answer, or refuses
    ├── BrokerUnavailable         the broker does not answer, or refuses
    ├── QueueFull                 as many messages wait for the model as it allows
    ├── Malformed                 bytes that are not what they claim to be
    │   ├── MalformedEntry
    │   ├── MalformedMessage
    │   └── UnsupportedLayout     written by a release that this one does not speak
    ├── Misconfigured             settings that contradict each other; names the setting
    └── PredictionFailed          the outcome is a failure; told to everyone who joined the flight
        ├── ModelFailed           the model raised
        ├── InvalidOutput         the model's output does not fit its type, or its count is wrong
        ├── InputRefused          the worker found that the input does not fit
        ├── DeadlineExceeded      the deadline passed before the computation began
        ├── TooManyAttempts       the computation's process died too often
        ├── TimeLimitExceeded     the computation took longer than its model allows
        ├── TransientFailure      the model could not answer just now, and says so
        ├── TooFewMembers         an ensemble has no answer: too few of its members have one
        ├── Revoked               an operator stopped the task
        └── VersionGone           that version of the model has no workers left

`retryable` says whether the same call can succeed later without anybody changing anything; retry policies read that
and nothing else. `poison` says that an input costs processes or time whenever it is tried: it leaves a dead letter.
What crosses the wire is a failure's name, message and details (`PredictionFailed.to_wire`), never an object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "BrokerUnavailable",
    "CacheUnavailable",
    "DeadlineExceeded",
    "ForeseenError",
    "InputRefused",
    "InvalidInput",
    "InvalidKey",
    "InvalidOutput",
    "Malformed",
    "MalformedEntry",
    "MalformedMessage",
    "Misconfigured",
    "ModelFailed",
    "ModelNotServed",
    "PredictionFailed",
    "PredictionTimeout",
    "ProducerClosed",
    "QueueFull",
    "Revoked",
    "TimeLimitExceeded",
    "TooFewMembers",
    "TooManyAttempts",
    "TransientFailure",
    "UnknownKey",
    "UnsupportedLayout",
    "VersionGone",
    "WrongLoop",
]


class ForeseenError(Exception):
    """The root: everything foreseen raises on purpose."""

    retryable: ClassVar[bool] = False


class InvalidInput(ForeseenError, ValueError):
    """The input does not fit; the message says where and what would. Nothing was queued. A retry cannot help."""


class InvalidKey(ForeseenError, ValueError):
    """The text is not a key of the form `model@version:digest`. A retry cannot help."""


class ModelNotServed(ForeseenError, LookupError):
    """No worker serves a model of that name. A retry helps once a worker has started."""

    retryable = True


class UnknownKey(ForeseenError, LookupError):
    """Nothing is known of the key: it was never asked for, or its entry has expired. Submit the input again."""


class PredictionTimeout(ForeseenError, TimeoutError):
    """The caller's timeout ran out. A retry joins the computation if it still runs."""

    retryable = True


class ProducerClosed(ForeseenError, RuntimeError):
    """The producer is closed. What was submitted is still computed; attach to it with `pending(key)`."""


class WrongLoop(ForeseenError, RuntimeError):
    """An `AsyncProducer` belongs to the loop that it first ran on; make one in each. A retry cannot help."""


class CacheUnavailable(ForeseenError, ConnectionError):
    """The cache server does not answer or refuses. A retry helps once it is back."""

    retryable = True


class BrokerUnavailable(ForeseenError, ConnectionError):
    """The broker does not answer or refuses: nothing was queued. A retry helps once it is back."""

    retryable = True


class QueueFull(ForeseenError, ConnectionError):
    """As many messages wait for the model as it allows; nothing was queued. A retry helps once workers catch up."""

    retryable = True


class Malformed(ForeseenError, ValueError):
    """Bytes that are not what they claim to be. Treated as absent wherever that is safe."""


class MalformedEntry(Malformed):
    """An entry that cannot be read: torn, foreign, or of another layout. The reader treats it as a miss."""


class MalformedMessage(Malformed):
    """A message that cannot be read; the worker drops it and says so."""


class UnsupportedLayout(Malformed):
    """Written by a release that this one does not speak; upgrade the older side. A retry helps once that is done."""

    retryable = True


class Misconfigured(ForeseenError, RuntimeError):
    """Settings that contradict each other. The message names the setting and a value that works."""


class PredictionFailed(ForeseenError):
    """The prediction's outcome is a failure. Everyone who joined its flight gets the same one.

    Args:
        message: what happened, for a person; never contains the input.
        details: JSON values that a program can use, such as `{"type": "ZeroDivisionError"}`.
    """

    poison: ClassVar[bool] = False

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details or {})

    def to_wire(self) -> dict[str, Any]:
        """Return name, message and details, as they travel."""
        return {"name": type(self).__name__, "message": self.message, "details": self.details}

    @staticmethod
    def from_wire(failure: Mapping[str, Any]) -> PredictionFailed:
        """Build the failure that `to_wire` described; a name this release does not know becomes `PredictionFailed`."""
        kind = _FAILURES.get(str(failure.get("name")), PredictionFailed)
        details = failure.get("details")
        return kind(str(failure.get("message", "")), details if isinstance(details, Mapping) else None)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.details)


class ModelFailed(PredictionFailed):
    """The model raised; `details["type"]` is the exception's class. A retry helps a model that is not deterministic."""


class InvalidOutput(PredictionFailed):
    """The model's output does not fit its declared type, or its count differs from the batch's. A retry cannot help."""


class InputRefused(PredictionFailed):
    """The worker found that the input does not fit the model. A retry cannot help."""


class DeadlineExceeded(PredictionFailed):
    """The deadline passed before the computation began. A retry with a later deadline may help."""

    retryable = True


class TooManyAttempts(PredictionFailed):
    """The process that computed this input died too often. A retry helps only after the cause is mended."""

    poison = True


class TimeLimitExceeded(PredictionFailed):
    """The computation took longer than its model allows, and was ended. A retry helps only with a higher limit."""

    poison = True


class TransientFailure(PredictionFailed):
    """The model could not answer just now, and said so; workers have tried again by then. A retry may help later."""

    retryable = True


class TooFewMembers(PredictionFailed):
    """Too few members of an ensemble answered; `details["missing"]` says of each why. A retry helps if more do then."""

    retryable = True


class Revoked(PredictionFailed):
    """An operator stopped the task, in Flower or with Celery's control commands. Nothing tries again by itself."""


class VersionGone(PredictionFailed):
    """The version asked for has no workers left; submit under the bare name or another version."""


_FAILURES: dict[str, type[PredictionFailed]] = {
    kind.__name__: kind
    for kind in (
        ModelFailed, InvalidOutput, InputRefused, DeadlineExceeded, TooManyAttempts, TimeLimitExceeded,
        TransientFailure, TooFewMembers, Revoked, VersionGone,
    )
}  # fmt: skip
