"""A trace, replayed in real time on a real server by the scripts that producers and workers run.

What is in it is the product's: keys, scripts, entries, the server. What is not: the broker, and a worker's process. A
computation is begun when its flight is opened and finished when its time is over, as by workers that are never busy.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from foreseen.cache import Cache
from foreseen.canonical import canonicalize
from foreseen.entry import result_body
from foreseen.flights import Call, Due, Hit, Joined, Kind, Ticket, nonce
from foreseen.holding import Alone, Begin, Begun, HolderFlights
from foreseen.keys import Key, key_of
from foreseen.settings import Settings
from workers import CachePolicy

__all__ = ["TICK_S", "Replay", "Tick"]

#: The requests of one go in one round trip, as those of the many callers of a producer do.
TICK_S: Final = 0.01
_MODEL: Final = ("replayed", "1")


@dataclass(slots=True)
class Tick:
    """What became of the requests of one."""

    requests: int = 0
    hits: int = 0
    computed: int = 0


@dataclass(frozen=True, slots=True)
class _Computation:
    key: Key
    begun: Begun
    holder: str
    ends_at: float


class Replay:
    """Requests for numbered inputs of one model.

    Args:
        cache_url: of the server.
        policy: of the model.
        cost_s: what a computation takes.
        output_bytes: how large its output is.
    """

    def __init__(self, cache_url: str, policy: CachePolicy, *, cost_s: float, output_bytes: int) -> None:
        # Marks that outlive what is replayed would fill the server with what a real one is rid of in proportion.
        settings = Settings(cache_url=cache_url, lease_s=1.0, visibility_timeout_s=2.0)
        self._flights = HolderFlights(settings)
        self._cache = Cache(settings)
        self._policy = policy
        self._cost_s = cost_s
        self._body = result_body("x" * output_bytes)
        self._inbox = self._flights.space.inbox(nonce())
        self._computations: deque[_Computation] = deque()
        self._keys: dict[int, Key] = {}
        self._random = random.Random(1)
        self.late_s = 0.0

    def run(self, trace: Iterable[Sequence[int]]) -> list[Tick]:
        """Replay a trace: the inputs asked for in each tick."""
        started = time.monotonic()
        ticks: list[Tick] = []
        for number, asked in enumerate(trace):
            wait_s = started + number * TICK_S - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            else:
                self.late_s = max(self.late_s, -wait_s)
            self._finish_what_is_over()
            ticks.append(self._ask(asked))
        return ticks

    def close(self) -> None:
        """Close the connections."""
        self._cache.close()

    def _ask(self, asked: Sequence[int]) -> Tick:
        keys = [self._key(number) for number in asked]
        tickets = [Ticket(key, self._inbox, 1, Kind.DETACHED, nonce()) for key in keys]
        replies = self._cache.run([self._flights.join(ticket) for ticket in tickets]) if tickets else []
        opened: list[tuple[Key, Joined]] = []
        hits = 0
        for key, reply in zip(keys, replies, strict=True):
            match reply:
                case Hit():
                    hits += 1
                case Due(refresh=refresh):
                    hits += 1
                    if refresh is not None and refresh.led:
                        opened.append((key, refresh))
                case Joined(led=True):
                    opened.append((key, reply))
                case _:
                    pass
        return Tick(len(asked), hits, self._begin(opened))

    def _begin(self, opened: Sequence[tuple[Key, Joined]]) -> int:
        holders = [nonce() for _ in opened]
        calls = [
            self._flights.begin(
                key, flight.token, flight.order, flight.deadline_ms, flight.priority, holder, holder,
                alone=Alone.IN_PROCESS,
            )
            for (key, flight), holder in zip(opened, holders, strict=True)
        ]  # fmt: skip
        ends_at = time.monotonic() + self._cost_s
        replies: list[Begun] = self._cache.run(calls) if calls else []
        run = [
            _Computation(key, begun, holder, ends_at)
            for (key, _), holder, begun in zip(opened, holders, replies, strict=True)
            if begun.code is Begin.RUN
        ]
        self._computations += run
        return len(run)

    def _finish_what_is_over(self) -> None:
        now = time.monotonic()
        calls: list[Call[Any]] = []
        while self._computations and self._computations[0].ends_at <= now:
            calls.append(self._finish(self._computations.popleft()))
        if calls:
            self._cache.run(calls)

    def _finish(self, over: _Computation) -> Call[Any]:
        """Return the call that a worker makes of it (`workers/outcomes.py`)."""
        policy = self._policy
        expiry_s = policy.expiry_s * (1 - policy.jitter * self._random.random())
        return self._flights.finish(
            over.key, over.begun, over.holder, over.holder,
            success=True, body=self._body, expiry_ms=round(expiry_s * 1000), cost_us=round(self._cost_s * 1e6),
            stale_ms=round(policy.stale_s * 1000), early_ms=math.ceil(policy.early_refresh * self._cost_s * 1000),
        )  # fmt: skip

    def _key(self, number: int) -> Key:
        key = self._keys.get(number)
        if key is None:
            key = self._keys[number] = key_of(*_MODEL, canonicalize(number))
        return key
