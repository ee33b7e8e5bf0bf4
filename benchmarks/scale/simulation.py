"""A slice of a large deployment, event by event: every so-manieth input, with its share of room and workers.

What decides is the product's: the model's policy says how long results are kept and when they are refreshed, and
`workers.gathered` what a worker computes together. Left out are what protocol and network take, some 3 ms of a miss,
and retries. Inputs are asked for by Zipf's law; the slice has those of rank 1 / share, 2 / share, …, so that its
requests are its share of all requests, and its hit rate that of the whole (Waldspurger et al., SHARDS, FAST 2015).
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.scale.shard import Shard
from workers import Batching, CachePolicy
from workers.gathered import Gathered, Waiting

__all__ = ["Fleet", "Loss", "Seen", "simulate"]

_DAY_S: Final = 86_400.0
_CACHE: Final = CachePolicy(expiry_s=_DAY_S / 4)
_BATCHING: Final = Batching(max_batch_size=8)


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that goes, and comes back empty.

    Attributes:
        at_s: when.
        for_s: how long it is away; what its shards would answer is computed meanwhile, and not kept.
        shards: how many of them.
        workers: share of the workers.
    """

    at_s: float
    for_s: float
    shards: int = 0
    workers: float = 0.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """The whole deployment, of which a share is simulated; what is not said, a billion requests a day.

    Attributes:
        per_s: requests a second, over the day.
        peak: the busiest moment's, as a multiple, below 2; the curve is a sine, and begins in the quietest.
        inputs: different ones that there are.
        skew: exponent of Zipf's law, below 1.
        shards: of the cache.
        room: entries of each shard.
        eviction: the server's policy.
        workers: processes, each with one device that computes a batch at a time.
        item_s: what a batch's item takes.
        batch_s: what a batch takes beside.
        cache: the model's policy.
        batching: likewise.
        losses: what goes wrong.
    """

    per_s: float = 1e9 / _DAY_S
    inputs: float = 1e8
    peak: float = 1.8
    skew: float = 0.9
    shards: int = 100
    room: float = math.inf
    eviction: str = "allkeys-lfu"
    workers: int = 1000
    item_s: float = 0.12
    batch_s: float = 0.1
    cache: CachePolicy = _CACHE
    batching: Batching = _BATCHING
    losses: Sequence[Loss] = ()


@dataclass(slots=True)
class Seen:
    """What was seen in one stretch of time.

    Attributes:
        requests: all of them.
        hits: answered by an entry.
        joined: by a computation under way.
        computed: items that were.
        batches: calls of the model.
        waits_s: of each item, from its message to its batch.
        entries: at the end.
        evicted: in it.
    """

    requests: int = 0
    hits: int = 0
    joined: int = 0
    computed: int = 0
    batches: int = 0
    waits_s: list[float] = field(default_factory=list[float])
    entries: int = 0
    evicted: int = 0

    @property
    def hit_rate(self) -> float:
        """Of all requests."""
        return self.hits / self.requests if self.requests else 0.0

    def wait_s(self, share: float) -> float:
        """Return what this share of the items waited at most."""
        waits = sorted(self.waits_s)
        return waits[min(len(waits) - 1, int(share * len(waits)))] if waits else 0.0


def simulate(
    fleet: Fleet,
    share: float,
    seconds: float,
    stretch_s: float,
    *,
    seed: int = 1,
    begin_s: float = 0.0,
    warm: bool = False,
) -> list[Seen]:
    """Return what is seen of a share of the fleet, stretch by stretch.

    Args:
        fleet: the whole.
        share: of it, which is simulated.
        seconds: for so long.
        stretch_s: what is told together.
        seed: of chance.
        begin_s: the time of day; losses are counted from then on.
        warm: the cache begins as it is after a day at the mean rate, instead of empty.
    """
    slice_ = _Slice(fleet, share, seed, begin_s)
    if warm:
        slice_.warm()
    return slice_.run(seconds, stretch_s)


class _Slice:
    def __init__(self, fleet: Fleet, share: float, seed: int, begin_s: float) -> None:
        self._fleet = fleet
        self._begin_s = begin_s
        self._share = share
        self._drawn = random.Random(seed)
        self._keys = max(1, round(fleet.inputs * share))
        room = fleet.room * share
        whole = 2**62 if math.isinf(room) else max(1, round(room))
        self._shards = [Shard(whole, fleet.eviction, self._drawn) for _ in range(fleet.shards)]
        count = max(1, round(fleet.workers * share))
        self._workers: list[Gathered[_Flight]] = [Gathered(fleet.batching) for _ in range(count)]
        self._idle = set(range(count))
        self._away: set[int] = set()
        self._gone_shards: set[int] = set()
        self._queue: deque[_Flight] = deque()
        self._flights: dict[int, _Flight] = {}
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._ties = 0
        self._seen = Seen()

    def warm(self) -> None:
        """Write what is there after a long time: an input asked for at a rate r, of r T / (1 + r T) of the time."""
        fleet, count = self._fleet, self._keys
        exponent = 1 - fleet.skew
        life_s = fleet.cache.expiry_s
        rate = fleet.per_s * self._share
        for key in range(count):
            mass = ((key + 1) / count) ** exponent - (key / count) ** exponent
            asked = mass * rate * life_s
            if self._drawn.random() < asked / (1 + asked):
                self._shards[self._shard_of(key)].keep(key, self._drawn.random() * life_s, 0.0)

    def _shard_of(self, key: int) -> int:
        return hash((key, 7)) % self._fleet.shards

    def run(self, seconds: float, stretch_s: float) -> list[Seen]:
        stretches: list[Seen] = []
        for loss in self._fleet.losses:
            self._at(loss.at_s, lambda now, loss=loss: self._lose(now, loss))
        self._at(self._next_request(0.0), self._request)
        until = stretch_s
        while self._events:
            now, _, event = heapq.heappop(self._events)
            while now >= until:
                stretches.append(self._turn())
                until += stretch_s
                if until > seconds + stretch_s / 2:
                    return stretches
            event(now)
        return stretches

    def _turn(self) -> Seen:
        seen, self._seen = self._seen, Seen()
        seen.entries = sum(map(len, self._shards))
        seen.evicted = sum(shard.evicted for shard in self._shards)
        for shard in self._shards:
            shard.evicted = 0
        return seen

    def _at(self, when: float, event: Callable[[float], None]) -> None:
        self._ties += 1
        heapq.heappush(self._events, (when, self._ties, event))

    def _next_request(self, now: float) -> float:
        """Draw when the next comes: at the peak's rate, of which what is too much is left out."""
        fleet = self._fleet
        while True:
            now += self._drawn.expovariate(fleet.per_s * self._share * fleet.peak)
            if self._drawn.random() * fleet.peak < 1 - (fleet.peak - 1) * math.cos(
                2 * math.pi * (self._begin_s + now) / _DAY_S
            ):
                return now

    def _request(self, now: float) -> None:
        self._at(self._next_request(now), self._request)
        key = int(self._keys * self._drawn.random() ** (1 / (1 - self._fleet.skew)))
        number = self._shard_of(key)
        self._seen.requests += 1
        policy = self._fleet.cache
        if number not in self._gone_shards:
            until = self._shards[number].find(key, now)
            if until is not None:
                self._seen.hits += 1
                fresh_until = until - policy.stale_s
                cost_s = self._fleet.item_s + self._fleet.batch_s
                early_s = -policy.early_refresh * cost_s * math.log(1 - self._drawn.random())
                if now + early_s < fresh_until or key in self._flights:
                    return
                self._open(key, number, now)
                return
            if key in self._flights:
                self._seen.joined += 1
                return
        self._open(key, number, now)

    def _open(self, key: int, number: int, now: float) -> None:
        flight = _Flight(key, number, now)
        if number not in self._gone_shards:
            self._flights[key] = flight
        self._queue.append(flight)
        self._hand_out(now)

    def _hand_out(self, now: float) -> None:
        """Give what is queued to workers that are idle; the others come for it when they are."""
        while self._queue and self._idle:
            self._start(self._idle.pop(), now)

    def _start(self, number: int, now: float) -> None:
        gathered = self._workers[number]
        while self._queue and len(gathered.waiting) < self._fleet.batching.max_batch_size:
            flight = self._queue.popleft()
            gathered.add([Waiting(flight, 4, flight.sent_at)])
        batch = gathered.start(now)
        if not batch:
            self._idle.add(number)
            return
        seen = self._seen
        seen.batches += 1
        seen.computed += len(batch)
        seen.waits_s += [now - flight.sent_at for flight in batch]
        self._at(
            now + self._fleet.batch_s + self._fleet.item_s * len(batch), lambda then: self._finish(number, batch, then)
        )

    def _finish(self, number: int, batch: Sequence[_Flight], now: float) -> None:
        self._workers[number].end()
        policy = self._fleet.cache
        for flight in batch:
            if flight.shard not in self._gone_shards:
                fresh_s = policy.expiry_s * (1 + policy.jitter * (2 * self._drawn.random() - 1))
                self._shards[flight.shard].keep(flight.key, now + fresh_s + policy.stale_s, now)
            self._flights.pop(flight.key, None)
        if number not in self._away:
            self._start(number, now)

    def _lose(self, now: float, loss: Loss) -> None:
        gone = set(range(loss.shards))
        for number in gone:
            self._shards[number].clear()
        self._gone_shards |= gone
        away = set(range(round(loss.workers * len(self._workers))))
        self._away |= away
        self._idle -= away
        self._at(now + loss.for_s, lambda then: self._recover(then, gone, away))

    def _recover(self, now: float, shards: set[int], workers: set[int]) -> None:
        self._gone_shards -= shards
        self._away -= workers
        self._idle |= workers
        self._hand_out(now)


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    key: int
    shard: int
    sent_at: float
