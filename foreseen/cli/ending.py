"""How a command ends: which exit status says what went wrong."""

from __future__ import annotations

from typing import Final

from foreseen.errors import (
    BrokerUnavailable,
    CacheUnavailable,
    ForeseenError,
    InvalidInput,
    InvalidKey,
    Misconfigured,
    ModelNotServed,
    PredictionTimeout,
    QueueFull,
    UnknownKey,
)

__all__ = ["READER_GONE", "STATUSES", "Told", "status_of"]

#: For people; `foreseen --help` ends with it.
STATUSES: Final = """\
\b
Every command ends with one of these statuses:
  0  all went well
  1  the prediction failed, or anything that has no number of its own
  2  the command, an input, a key or a setting is not as it should be
  3  not found: no worker serves the model, nothing is known of the key
  4  a server is not available, the cache or the broker; or a queue is full
  5  the time ran out before there was an outcome
128 and more: a signal, as shells say; 130 is Ctrl-C, 141 a closed pipe
"""

_OTHER: Final = 1
_BY_ERROR: Final[tuple[tuple[type[ForeseenError], int], ...]] = (
    (InvalidInput, 2),
    (InvalidKey, 2),
    (Misconfigured, 2),
    (ModelNotServed, 3),
    (UnknownKey, 3),
    (CacheUnavailable, 4),
    (BrokerUnavailable, 4),
    (QueueFull, 4),
    (PredictionTimeout, 5),
)
#: What shells say of a program that wrote to a pipe nobody reads: 128 and the number of SIGPIPE.
READER_GONE: Final = 141


class Told(Exception):
    """A command has told its errors itself; what is left is to end with the status of the first.

    Args:
        error: the first.
    """

    def __init__(self, error: ForeseenError) -> None:
        super().__init__(str(error))
        self.error = error


def status_of(error: ForeseenError) -> int:
    """Return the exit status that says what an error means."""
    return next((status for kind, status in _BY_ERROR if isinstance(error, kind)), _OTHER)
