"""How long predictions took, by how they were answered."""

from __future__ import annotations

from collections import deque

from pydantic import BaseModel

from producer import Source

#: Enough for a p99 that a single slow request does not make.
KEPT = 10_000


class Summary(BaseModel):
    """The latencies of one source."""

    count: int
    p50_ms: float
    p99_ms: float


class Latencies:
    """The latest latencies of each source, and how many there were in all."""

    def __init__(self) -> None:
        self._latest: dict[Source, deque[float]] = {source: deque(maxlen=KEPT) for source in Source}
        self._counts = dict.fromkeys(Source, 0)

    def add(self, source: Source, duration_s: float) -> None:
        """Add one."""
        self._latest[source].append(duration_s)
        self._counts[source] += 1

    def by_source(self) -> dict[Source, Summary]:
        """Return a summary of each source that answered at all."""
        return {
            source: Summary(count=self._counts[source], p50_ms=_at(latest, 0.5), p99_ms=_at(latest, 0.99))
            for source, latest in self._latest.items()
            if latest
        }


def _at(latest: deque[float], share: float) -> float:
    return round(sorted(latest)[int(share * len(latest))] * 1000, 2)
