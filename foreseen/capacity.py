"""What a deployment needs for a load, from what each step was measured to cost.

A role's need is processor time, memory, or time that models compute. Costs are linear in requests, items and messages:
that is checked against runs (`benchmarks/capacity.py`, docs/scaling.md). Waiting in the queue is that of M/M/c (Erlang,
1917), of as many servers as there are slots: batches and times that vary less than exponentially wait less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from foreseen.errors import InvalidInput

__all__ = ["MEASURED", "Costs", "Load", "Need", "Plan", "plan", "queue_wait_s"]

#: What the cache keeps of an entry beside its payload, in bytes: key, header, the server's own; of one among a million.
ENTRY_OVERHEAD_BYTES: Final = 213
#: Of a flight, and of an end mark, which what expires sooner than that leaves behind for `MARK_S`: twice the default
#: visibility timeout, and two leases.
FLIGHT_BYTES: Final = 700
MARK_BYTES: Final = 170
MARK_S: Final = 1220.0


@dataclass(frozen=True, slots=True)
class Costs:
    """Processor time, in microseconds, of one core like those that it was measured on.

    A message's parts are what it costs beside its items, a round trip's what it costs beside its requests.

    Attributes:
        producer_trip: of a producer, for a round trip of look-ups.
        producer_hit: for a hit.
        producer_miss: for an item that is computed, or joined.
        producer_message: for a message that it sends.
        cache_trip: of the cache server, for a round trip of look-ups.
        cache_hit: for a hit.
        cache_miss: for an item: joining, beginning, finishing, the push.
        cache_message: for the watermark, and the leases' share.
        broker_message: of the broker, Redis or Valkey: publish, take, note, ack.
        worker_item: of a worker, both its processes, for an item.
        worker_message: for a message.
        cache_idle: of the cache server, in a second without requests: heartbeats, renewals, its own upkeep.
        broker_idle: of the broker.
        worker_idle: of each worker process.
    """

    producer_trip: float
    producer_hit: float
    producer_miss: float
    producer_message: float
    cache_trip: float
    cache_hit: float
    cache_miss: float
    cache_message: float
    broker_message: float
    worker_item: float
    worker_message: float
    cache_idle: float
    broker_idle: float
    worker_idle: float


#: As docs/scaling.md has them; a test compares.
MEASURED: Final = Costs(
    producer_trip=10.3, producer_hit=23.5, producer_miss=60.5, producer_message=566.7,
    cache_trip=7.1, cache_hit=1.5, cache_miss=139.4, cache_message=309,
    broker_message=150,
    worker_item=61.2, worker_message=1416.1,
    cache_idle=0, broker_idle=3333.3, worker_idle=3333.3,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a deployment.

    Attributes:
        requests_per_s: at the peak that it is to carry.
        hit_rate: share of requests that an entry answers.
        joined: share of the others that join a computation under way.
        output_bytes: of a result, packed.
        expiry_s: how long results are kept.
        entries: how many are kept at a time; None is as many as are computed within `expiry_s`.
        item_s: what the model computes for an item of a batch.
        batch_s: and for a batch, whatever its size.
        requests_per_trip: that share a look-up's round trip; 1 where callers are few, 30 and more where they are many.
        items_per_message: that travel, and are computed, together.
        slots_per_worker: batches that a worker computes at a time.
        utilization: how busy anything may be at that peak.
        shard_bytes: memory of a shard of the cache.

    Raises:
        InvalidInput: a value out of range.
    """

    requests_per_s: float
    hit_rate: float = 0.9
    joined: float = 0.0
    output_bytes: int = 1000
    expiry_s: float = 600.0
    entries: int | None = None
    item_s: float = 0.01
    batch_s: float = 0.0
    requests_per_trip: float = 1.0
    items_per_message: float = 1.0
    slots_per_worker: int = 1
    utilization: float = 0.7
    shard_bytes: int = 8 * 2**30

    def __post_init__(self) -> None:
        for name in ("hit_rate", "joined"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name}={getattr(self, name)!r}: give a share from 0 to 1")
        if not 0 < self.utilization < 1:
            raise InvalidInput(f"utilization={self.utilization!r}: give a share between 0 and 1, such as 0.7")
        for name in ("requests_per_s", "slots_per_worker", "shard_bytes"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidInput(f"{name}={getattr(self, name)!r}: give a number above 0")
        for name in ("output_bytes", "expiry_s", "item_s", "batch_s", "entries"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InvalidInput(f"{name}={value!r}: give a number from 0 on")
        if not self.requests_per_trip >= 1:
            raise InvalidInput(f"requests_per_trip={self.requests_per_trip!r}: give a number from 1 on")
        if not 1 <= self.items_per_message <= 256:  # noqa: PLR2004 - `foreseen.message.MAX_ITEMS`
            raise InvalidInput(f"items_per_message={self.items_per_message!r}: a message has 1 to 256")

    @property
    def trips_per_s(self) -> float:
        """Round trips of look-ups."""
        return self.requests_per_s / self.requests_per_trip

    @property
    def hits_per_s(self) -> float:
        """Requests that an entry answers."""
        return self.requests_per_s * self.hit_rate

    @property
    def misses_per_s(self) -> float:
        """Requests that wait for a computation."""
        return self.requests_per_s - self.hits_per_s

    @property
    def computed_per_s(self) -> float:
        """Items that workers compute."""
        return self.misses_per_s * (1 - self.joined)

    @property
    def messages_per_s(self) -> float:
        """Messages that carry them."""
        return self.computed_per_s / self.items_per_message


@dataclass(frozen=True, slots=True)
class Need:
    """What one role needs.

    Attributes:
        role: producers, cache, broker, workers.
        count: cores, shards, servers or worker processes.
        unit: which of those.
        because: what decides it.
        utilization: of those, at the load; of a single server that cannot be split, above 1 if it is too much.
        cores: of processor time that it takes, the model's own aside.
    """

    role: str
    count: int
    unit: str
    because: str
    utilization: float
    cores: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load needs.

    Attributes:
        needs: by role.
        memory_bytes: that the cache holds.
        wait_s: mean time that a message waits in its queue, and the time that 1 in 100 waits longer than.
        limits: what this design cannot carry at that load, each with what would have to change.
    """

    needs: list[Need]
    memory_bytes: int
    wait_s: tuple[float, float]
    limits: list[str] = field(default_factory=list[str])

    @property
    def bottleneck(self) -> Need:
        """What fills up first as the load grows."""
        return max(self.needs, key=lambda need: need.utilization)


def plan(load: Load, costs: Costs = MEASURED) -> Plan:
    """Return what a load needs."""
    producers = _cores(
        load.trips_per_s * costs.producer_trip
        + load.hits_per_s * costs.producer_hit
        + load.misses_per_s * costs.producer_miss
        + load.messages_per_s * costs.producer_message
    )
    cache = _cores(
        costs.cache_idle
        + load.trips_per_s * costs.cache_trip
        + load.hits_per_s * costs.cache_hit
        + load.misses_per_s * costs.cache_miss
        + load.messages_per_s * costs.cache_message
    )
    broker = _cores(costs.broker_idle + load.messages_per_s * costs.broker_message)
    workers = _cores(load.computed_per_s * costs.worker_item + load.messages_per_s * costs.worker_message)
    computing = load.computed_per_s * load.item_s + load.messages_per_s * load.batch_s
    busy = workers + computing  # slots
    processes = max(1, math.ceil(busy / load.utilization / load.slots_per_worker))
    memory = _memory(load)
    by_memory, by_core = math.ceil(memory / load.shard_bytes), math.ceil(cache / load.utilization)
    shards = max(1, by_memory, by_core)
    cores = max(1, math.ceil(producers / load.utilization))
    used_of_shards = max(cache / shards, memory / (shards * load.shard_bytes))
    slots = processes * load.slots_per_worker
    needs = [
        Need("producers", cores, "core", "processor time", producers / cores, producers),
        Need("cache", shards, "shard", "memory" if by_memory > by_core else "processor time", used_of_shards, cache),
        Need("broker", 1, "server", "one queue lies on one server", broker, broker),
        Need(
            "workers",
            processes,
            "process",
            "the model's time" if computing >= workers else "processor time",
            busy / slots,
            workers + _cores(processes * costs.worker_idle),
        ),
    ]
    service_s = busy / load.messages_per_s if load.messages_per_s else 0.0
    wait_s = queue_wait_s(load.messages_per_s, service_s, slots)
    return Plan(needs, memory, wait_s, _limits(load, costs, broker))


def queue_wait_s(arrivals_per_s: float, service_s: float, servers: int) -> tuple[float, float]:
    """Return the mean wait in a queue of M/M/c, and its 99th percentile, in seconds; infinite where it only grows."""
    offered = arrivals_per_s * service_s
    if offered >= servers:
        return math.inf, math.inf
    if offered <= 0:
        return 0.0, 0.0
    blocked = 1.0  # Erlang's B, by the recursion that does not overflow
    for n in range(1, servers + 1):
        blocked = offered * blocked / (n + offered * blocked)
    waits = blocked / (1 - offered / servers * (1 - blocked))  # Erlang's C: the share that waits at all
    drain_per_s = servers / service_s - arrivals_per_s
    return waits / drain_per_s, max(0.0, math.log(waits / 0.01) / drain_per_s)


def _cores(us_per_s: float) -> float:
    return us_per_s / 1e6


def _memory(load: Load) -> int:
    entries = load.entries if load.entries is not None else load.computed_per_s * load.expiry_s
    under_way = load.computed_per_s * (load.item_s + load.batch_s + 1)
    marks = load.computed_per_s * MARK_S if load.expiry_s < MARK_S else 0.0
    return round(entries * (load.output_bytes + ENTRY_OVERHEAD_BYTES) + under_way * FLIGHT_BYTES + marks * MARK_BYTES)


def _limits(load: Load, costs: Costs, broker: float) -> list[str]:
    limits: list[str] = []
    if broker > load.utilization:
        most = load.utilization * 1e6 / costs.broker_message
        needed = math.ceil(load.computed_per_s / most)
        limits.append(
            f"A Redis broker carries {most:,.0f} messages a second at {load.utilization:.0%}; this load has "
            f"{load.messages_per_s:,.0f}. Send {needed} items in a message (submit_many, map, or more callers in one "
            f"process), or give the model's versions or tenants brokers of their own."
        )
    return limits
