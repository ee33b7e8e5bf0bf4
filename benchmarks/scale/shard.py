"""A shard of the cache, simulated: entries that expire, and what goes when it is full, as the server chooses it."""

from __future__ import annotations

import math
import random
from typing import Final

__all__ = ["Shard"]

#: Keys that the server looks at for one to evict (`maxmemory-samples`).
_SAMPLES: Final = 5
_EXPIRED_LOOKED_FOR: Final = 4
#: Of a new key; and how slowly the counter grows (`lfu-log-factor`).
_FIRST_COUNT: Final = 5
_LOG_FACTOR: Final = 10
#: The counter loses one for each minute without a use (`lfu-decay-time`).
_DECAY_S: Final = 60.0


class Shard:
    """Entries by key, at most `room` of them.

    Args:
        room: entries that it holds.
        policy: `allkeys-lru` or `allkeys-lfu`, both by samples.
        drawn: where chance comes from.

    Attributes:
        evicted: entries that went for want of room.
    """

    def __init__(self, room: int, policy: str, drawn: random.Random) -> None:
        self._room = room
        self._is_lfu = policy == "allkeys-lfu"
        self._drawn = drawn
        self._entries: dict[int, list[float]] = {}  # until when, last use, count
        self._keys: list[int] = []
        self._places: dict[int, int] = {}
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key: int, now: float) -> float | None:
        """Return until when an entry is fresh, or None if there is none; counts as a use."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= now:
            self._drop(key)
            return None
        if self._is_lfu:
            entry[2] = self._count(entry, now)
            if self._drawn.random() < 1 / (max(0.0, entry[2] - _FIRST_COUNT) * _LOG_FACTOR + 1):
                entry[2] += 1
        entry[1] = now
        return entry[0]

    def keep(self, key: int, until: float, now: float) -> None:
        """Write an entry. A few others are looked at each time, and go if they have expired, as the server does it."""
        for _ in range(min(_EXPIRED_LOOKED_FOR, len(self._keys))):
            other = self._drawn.choice(self._keys)
            if self._entries[other][0] <= now:
                self._drop(other)
        if key not in self._entries:
            while len(self._keys) >= self._room:
                self._drop(self._victim(now))
                self.evicted += 1
            self._places[key] = len(self._keys)
            self._keys.append(key)
        self._entries[key] = [until, now, _FIRST_COUNT]

    def clear(self) -> None:
        """Lose everything."""
        self._entries.clear()
        self._keys.clear()
        self._places.clear()

    def _victim(self, now: float) -> int:
        sample = [self._drawn.choice(self._keys) for _ in range(_SAMPLES)]
        if self._is_lfu:
            return min(sample, key=lambda key: (self._count(self._entries[key], now), self._entries[key][1]))
        return min(sample, key=lambda key: self._entries[key][1])

    def _count(self, entry: list[float], now: float) -> float:
        return max(0.0, entry[2] - math.floor((now - entry[1]) / _DECAY_S))

    def _drop(self, key: int) -> None:
        del self._entries[key]
        place, last = self._places.pop(key), self._keys.pop()
        if last != key:
            self._keys[place] = last
            self._places[last] = place
