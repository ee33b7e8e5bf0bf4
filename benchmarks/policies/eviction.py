"""How much of a trace is hit where the server has less room than the trace would fill."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

from benchmarks.policies.record import Eviction, Tell
from benchmarks.policies.replay import TICK_S, Replay
from foreseen.embedded import EmbeddedServer
from workers import CachePolicy

__all__ = ["Trace", "evictions"]

_POLICIES: Final = ("allkeys-lru", "allkeys-lfu")
_ROOMS: Final = (0.95, 0.5)
_COST_S: Final = 0.1
_OUTPUT_BYTES: Final = 1000


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests drawn with weight 1/rank, the same ones each time.

    Attributes:
        inputs: how many there are.
        per_s: requests a second.
        fill_s: until the server is as full as it will be.
        seconds: that count, after that.
        expiry_s: of entries.
    """

    inputs: int = 10_000
    per_s: int = 2000
    fill_s: float = 12.0
    seconds: float = 12.0
    expiry_s: float = 10.0

    def ticks(self) -> Iterator[Sequence[int]]:
        """Yield the inputs asked for in each tick."""
        source, ranks = random.Random(1), range(self.inputs)
        weights = [1 / (rank + 1) for rank in ranks]
        for _ in range(round((self.fill_s + self.seconds) / TICK_S)):
            yield source.choices(ranks, weights, k=round(self.per_s * TICK_S))


def evictions(trace: Trace, tell: Tell) -> list[Eviction]:
    """Run the trace without a bound, which says what it fills; then with less room, by each policy of the server's."""
    found: list[Eviction] = []
    filled_bytes: dict[float, int] = {}
    for early in (0.0, 1.0):
        tell(f"no bound, early_refresh={early:g}")
        one, filled_bytes[early] = _run(trace, early, None, "noeviction", 0)
        found.append(one)
    for room in _ROOMS:
        for policy in _POLICIES:
            for early in (0.0, 1.0):
                tell(f"{room:.0%} of what it fills, {policy}, early_refresh={early:g}")
                found.append(_run(trace, early, room, policy, filled_bytes[early])[0])
    return found


def _run(trace: Trace, early: float, room: float | None, policy: str, filled_bytes: int) -> tuple[Eviction, int]:
    """Return what became of the trace, and how many bytes it filled at most."""
    with EmbeddedServer(config={"maxmemory-policy": policy}) as server, redis.Redis.from_url(server.url(1)) as client:
        replay = Replay(
            server.url(1),
            CachePolicy(expiry_s=trace.expiry_s, early_refresh=early),
            cost_s=_COST_S,
            output_bytes=_OUTPUT_BYTES,
        )
        replay.run([[0]])  # scripts and connections are there
        empty_bytes = _told(client, "used_memory")
        if room is not None:
            client.config_set("maxmemory", empty_bytes + round(room * filled_bytes))
        ticks = list(trace.ticks())
        split = round(trace.fill_s / TICK_S)
        replay.run(ticks[:split])
        evicted = _told(client, "evicted_keys")
        counted = replay.run(ticks[split:])
        evicted = _told(client, "evicted_keys") - evicted
        peak_bytes = _told(client, "used_memory") - empty_bytes
        replay.close()
    requests = sum(tick.requests for tick in counted)
    hits, computed = sum(tick.hits for tick in counted), sum(tick.computed for tick in counted)
    per = 1000 / requests
    one = Eviction(
        room, policy, early, round(hits / requests, 4), round(computed * per, 1), round(evicted * per, 1),
        round(replay.late_s, 3),
    )  # fmt: skip
    return one, peak_bytes


def _told(client: redis.Redis, name: str) -> int:
    told: Any = client.info()
    return int(told[name])
