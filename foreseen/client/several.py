"""A near cache's connections to the nodes of a cluster, one to each: as good as the one that is worst; without I/O.

Each node tells of the keys that it holds itself. So the near cache is off until all are heard, answers as long as all
have answered their pings, and believes the clock that is furthest ahead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from foreseen.client.near import Near

__all__ = ["NODES_LOOKED_AT_S", "Member", "Several"]

#: How often it is asked whether the cluster's masters are still the same.
NODES_LOOKED_AT_S: Final = 1.0


class Several:
    """What the connections say, told to one near cache. Safe for threads.

    Args:
        near: is told.
        count: of connections.
    """

    def __init__(self, near: Near, count: int) -> None:
        self._near = near
        self._lock = threading.Lock()
        self._is_over = False
        self._tracked = [False] * count
        self._answers: list[tuple[float, float] | None] = [None] * count  # when asked, and how far the clock is ahead
        self.members: Final = tuple(Member(self, place) for place in range(count))

    def end(self) -> None:
        """Turn the near cache off, and tell it nothing more: others follow."""
        with self._lock:
            if not self._is_over:
                self._is_over = True
                self._near.lost()

    def tracked(self, place: int) -> None:
        """Note that one is heard from now on."""
        with self._lock:
            self._tracked[place] = True
            if all(self._tracked) and not self._is_over:
                self._near.tracked()

    def answered(self, place: int, sent_at: float, server_s: float) -> None:
        """Note that one has answered a ping."""
        with self._lock:
            self._answers[place] = sent_at, server_s - sent_at
            known = [each for each in self._answers if each is not None]
            if len(known) == len(self._answers) and not self._is_over:
                since = min(at for at, _ in known)
                self._near.answered(since, since + max(ahead_s for _, ahead_s in known))

    def lost(self, place: int) -> None:
        """Note that one is not heard any more."""
        with self._lock:
            self._tracked[place] = False
            self._answers[place] = None
            if not self._is_over:
                self._near.lost()

    def invalidated(self, names: Iterable[str]) -> None:
        """Hand on what one was told."""
        self._near.invalidated(names)

    def emptied(self) -> None:
        """Hand on that one was flushed."""
        self._near.emptied()


class Member:
    """One of several connections; looks like the near cache to whoever reads it."""

    def __init__(self, several: Several, place: int) -> None:
        self._several = several
        self._place = place

    def tracked(self) -> None:
        """See `Several`."""
        self._several.tracked(self._place)

    def answered(self, sent_at: float, server_s: float) -> None:
        """See `Several`."""
        self._several.answered(self._place, sent_at, server_s)

    def lost(self) -> None:
        """See `Several`."""
        self._several.lost(self._place)

    def invalidated(self, names: Iterable[str]) -> None:
        """See `Several`."""
        self._several.invalidated(names)

    def emptied(self) -> None:
        """See `Several`."""
        self._several.emptied()
