"""What entries that were written together cost when they expire together."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.policies.record import Boundary, Tell
from benchmarks.policies.replay import TICK_S, Replay, Tick
from foreseen.embedded import EmbeddedServer
from workers import CachePolicy

__all__ = ["BIN_S", "COST_S", "EXPIRY_S", "Load", "boundaries"]

BIN_S: Final = 0.1
EXPIRY_S: Final = 6.0
COST_S: Final = 0.5
_OUTPUT_BYTES: Final = 200
_POLICIES: Final = {
    "nothing": CachePolicy(expiry_s=EXPIRY_S, jitter=0),
    "jitter=0.1": CachePolicy(expiry_s=EXPIRY_S, jitter=0.1),
    "early_refresh=1": CachePolicy(expiry_s=EXPIRY_S, jitter=0, early_refresh=1),
    "jitter=0.1, early_refresh=1": CachePolicy(expiry_s=EXPIRY_S, jitter=0.1, early_refresh=1),
    "stale_s=60": CachePolicy(expiry_s=EXPIRY_S, jitter=0, stale_s=60),
    "jitter=0.1, stale_s=60": CachePolicy(expiry_s=EXPIRY_S, jitter=0.1, stale_s=60),
}


@dataclass(frozen=True, slots=True)
class Load:
    """Requests for inputs that were all computed in the first moment, each as likely as another.

    Attributes:
        inputs: how many there are.
        per_s: requests a second.
        seconds: how long.
    """

    inputs: int = 200
    per_s: int = 1000
    seconds: float = 2 * EXPIRY_S + 2

    def ticks(self) -> Iterator[Sequence[int]]:
        """Yield the inputs asked for in each tick: first all of them."""
        source = random.Random(1)
        yield range(self.inputs)
        for _ in range(round(self.seconds / TICK_S) - 1):
            yield source.choices(range(self.inputs), k=round(self.per_s * TICK_S))


def boundaries(load: Load, tell: Tell) -> list[Boundary]:
    """Replay the load under each policy, and count what comes after the first second."""
    found: list[Boundary] = []
    for name, policy in _POLICIES.items():
        tell(name)
        with EmbeddedServer() as server:
            replay = Replay(server.url(1), policy, cost_s=COST_S, output_bytes=_OUTPUT_BYTES)
            ticks = replay.run(load.ticks())
            replay.close()
        bins = _bins(ticks)
        computed = tuple(sum(tick.computed for tick in each) for each in bins)
        waited = tuple(sum(tick.requests - tick.hits for tick in each) for each in bins)
        requests = sum(tick.requests for tick in ticks)
        found.append(Boundary(name, computed, waited, requests, round(replay.late_s, 3)))
    return found


def _bins(ticks: Sequence[Tick]) -> list[Sequence[Tick]]:
    size = round(BIN_S / TICK_S)
    return [ticks[start : start + size] for start in range(0, len(ticks), size)]
