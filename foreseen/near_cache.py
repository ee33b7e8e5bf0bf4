"""What a producer's near cache tells of itself; apart from the near cache, which is loaded only where there is one."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NearCache"]


class NearCache(NamedTuple):
    """What a producer's near cache holds, and what was counted since the producer opened.

    Attributes:
        hits: submissions that it answered, without a round trip.
        misses: submissions whose look-up went to the cache server instead.
        entries: how many it holds.
        bytes: what they take, inputs included.
        is_on: it may answer now; False where it is turned off, and while the server does not answer its pings.
        emptied: how often everything was dropped: the connection was lost, the server flushed, or a card changed.
    """

    hits: int = 0
    misses: int = 0
    entries: int = 0
    bytes: int = 0
    is_on: bool = False
    emptied: int = 0
