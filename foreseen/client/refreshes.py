"""Refreshes: computations of what has just been answered from an entry that is due; sent when nobody waits for it."""

from __future__ import annotations

from collections import deque
from typing import Final

from foreseen.client.effects import Steps
from foreseen.client.publishing import Led, Publishing
from foreseen.client.submission import Submission
from foreseen.flights import Joined, Kind

__all__ = ["Refreshes"]

#: What is dropped beyond, or lost with this process, is sent by whoever meets the entry a lease later.
_MOST: Final = 1000


class Refreshes:
    """Messages that wait for a moment when no caller does.

    Args:
        publishing: sends them.
    """

    def __init__(self, publishing: Publishing) -> None:
        self._publishing = publishing
        self._waiting: deque[Led] = deque(maxlen=_MOST)

    def add(self, answered: Submission, refresh: Joined) -> None:
        """Have a message sent for the flight that refreshes the entry which answered a submission."""
        if answered.canonical is not None:
            self._waiting.append((Submission(answered.key, answered.canonical, Kind.DETACHED), refresh))

    def send(self) -> Steps[None]:
        """Send what waits; what cannot be sent is left to others."""
        by_model: dict[str, list[Led]] = {}
        for _ in range(len(self._waiting)):
            try:
                submission, refresh = self._waiting.popleft()
            except IndexError:  # another thread took the last one
                break
            by_model.setdefault(submission.key.model_id, []).append((submission, refresh))
        for group in by_model.values():
            yield from self._publishing.send_now(group)
