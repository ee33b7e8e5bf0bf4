"""Marks that messages are out: they ride on round trips to come, unless what they tell is known by then.

A mark spares whoever joins a flight, detached, a message of his own. A worker's begin sets it as well: on a queue that
is worked off at once a mark would tell nobody anything. So it waits for a moment, and mostly need not go.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from foreseen.client.submission import Submission
from foreseen.flights import Call, Flights
from foreseen.keys import Key

__all__ = ["Marks"]

#: For so long a mark waits: longer than a message takes to a worker that is free.
_WAIT_S: Final = 0.05


class _Mark(NamedTuple):
    submission: Submission | None  # whose outcome makes it needless
    key: Key
    token: str
    due_at: float


class Marks:
    """What was published of late. Bounded, for when the cache is away: a mark that is dropped costs a message at most.

    Args:
        flights: builds the calls.
        most: marks that wait.
    """

    def __init__(self, flights: Flights, most: int) -> None:
        self._flights = flights
        self._lock = threading.Lock()
        self._most = most
        self._waiting: dict[str, _Mark] = {}  # by digest, in the order in which they were added

    def add(self, submission: Submission, token: str) -> None:
        """Note that the message for a submission's flight is in the broker."""
        # One that has its answer already has a flight that refreshes what answered it.
        own = submission if submission.answer is None else None
        mark = _Mark(own, submission.key, token, time.monotonic() + _WAIT_S)
        with self._lock:
            self._waiting.pop(mark.key.digest, None)
            self._waiting[mark.key.digest] = mark
            if len(self._waiting) > self._most:
                del self._waiting[next(iter(self._waiting))]

    def __bool__(self) -> bool:
        """Whether any wait; without the lock."""
        return bool(self._waiting)

    def due(self, limit: int, before: Iterable[Submission] = ()) -> list[Call[Any]]:
        """Return calls that mark what has waited for its moment, up to `limit`, and what others are about to join."""
        now = time.monotonic()
        taken: list[_Mark] = []
        with self._lock:
            if self._waiting:
                found = (self._waiting.pop(submission.key.digest, None) for submission in before)
                taken.extend(mark for mark in found if mark is not None)
            for mark in self._waiting.values():
                if len(taken) >= limit or mark.due_at > now:
                    break
                taken.append(mark)
            for mark in taken:
                self._waiting.pop(mark.key.digest, None)
        return self._calls(taken)

    def rest(self) -> list[Call[Any]]:
        """Return the calls that mark everything, however short it has waited."""
        with self._lock:
            taken = list(self._waiting.values())
            self._waiting.clear()
        return self._calls(taken)

    def _calls(self, marks: Iterable[_Mark]) -> list[Call[Any]]:
        open_ones = [mark for mark in marks if mark.submission is None or mark.submission.answer is None]
        return [self._flights.published(mark.key, mark.token) for mark in open_ones]
