"""What a load needs: each role by itself, and what decides it."""

from __future__ import annotations

import json
import math
import random
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import pytest

from foreseen.capacity import MARK_S, MEASURED, Costs, Load, plan, queue_wait_s
from foreseen.errors import InvalidInput

COSTS = Costs(
    producer_trip=1, producer_hit=10, producer_miss=100, producer_message=1000,
    cache_trip=2, cache_hit=20, cache_miss=200, cache_message=2000,
    broker_message=500, worker_item=300, worker_message=3000,
    cache_idle=0, broker_idle=0, worker_idle=0,
)  # fmt: skip


def test_the_costs_are_those_that_the_docs_show() -> None:
    record = json.loads((Path(__file__).parents[2] / "docs" / "scaling.json").read_text("utf-8"))
    assert Costs(**record["costs"]) == MEASURED, "make scale has renewed the docs; put their costs into MEASURED"


def cores(load: Load) -> dict[str, float]:
    return {need.role: need.cores for need in plan(load, COSTS).needs}


def test_each_role_pays_for_what_it_does() -> None:
    load = Load(requests_per_s=1000, hit_rate=0.9, items_per_message=10, requests_per_trip=4)
    assert cores(load) == pytest.approx(
        {
            "producers": (250 * 1 + 900 * 10 + 100 * 100 + 10 * 1000) / 1e6,
            "cache": (250 * 2 + 900 * 20 + 100 * 200 + 10 * 2000) / 1e6,
            "broker": 10 * 500 / 1e6,
            "workers": (100 * 300 + 10 * 3000) / 1e6,
        }
    )


def test_who_joins_a_computation_has_none_of_his_own() -> None:
    load = Load(requests_per_s=1000, hit_rate=0.5, joined=0.8)
    assert load.computed_per_s == pytest.approx(100)
    assert load.misses_per_s == 500
    assert cores(load)["producers"] == pytest.approx((1000 + 500 * 10 + 500 * 100 + 100 * 1000) / 1e6)


@pytest.mark.parametrize(
    ("load", "role", "because"),
    [
        (Load(1000, hit_rate=0.5, item_s=0.1), "workers", "the model's time"),
        (Load(1000, hit_rate=0.5, item_s=0.0), "workers", "processor time"),
        (Load(100, entries=10**8), "cache", "memory"),
        (Load(100_000, hit_rate=1.0), "cache", "processor time"),
    ],
)
def test_it_says_what_decides(load: Load, role: str, because: str) -> None:
    (need,) = (need for need in plan(load, COSTS).needs if need.role == role)
    assert need.because == because
    assert need.utilization <= (1 if because == "memory" else load.utilization)


def test_workers_are_as_many_as_keep_them_no_busier_than_asked() -> None:
    told = plan(Load(1000, hit_rate=0.5, item_s=0.1, utilization=0.5), COSTS)
    (workers,) = (need for need in told.needs if need.role == "workers")
    busy = 500 * 0.1 + 500 * 3300 / 1e6
    assert workers.count == math.ceil(busy / 0.5)
    slots = plan(Load(1000, hit_rate=0.5, item_s=0.1, utilization=0.5, slots_per_worker=4), COSTS).needs[-1]
    assert slots.count == math.ceil(workers.count / 4)


def test_a_queue_beyond_its_broker_is_said_with_what_would_do() -> None:
    assert plan(Load(2000, hit_rate=0.5), COSTS).limits == []
    (limit,) = plan(Load(20_000, hit_rate=0.8), COSTS).limits  # 4,000 messages, of 1,400 that it carries
    assert "carries 1,400 messages a second" in limit
    assert "Send 3 items in a message" in limit
    assert plan(Load(20_000, hit_rate=0.8, items_per_message=3), COSTS).limits == []


def test_memory_is_that_of_entries_flights_and_end_marks() -> None:
    quick = plan(Load(1000, hit_rate=0.0, expiry_s=60, output_bytes=1000), COSTS).memory_bytes
    assert quick == pytest.approx(60_000 * 1213 + 1000 * 1.01 * 700 + 1000 * MARK_S * 170)
    slow = plan(Load(1000, hit_rate=0.0, expiry_s=7200, output_bytes=1000), COSTS).memory_bytes
    assert slow == pytest.approx(7_200_000 * 1213 + 1000 * 1.01 * 700)


def test_nothing_to_compute_waits_for_nobody() -> None:
    told = plan(Load(1000, hit_rate=1.0), COSTS)
    assert told.wait_s == (0.0, 0.0)
    assert told.needs[-1].count == 1


class TestWait:
    def test_one_server_is_the_textbook_s(self) -> None:
        mean, p99 = queue_wait_s(8, 0.1, 1)
        assert mean == pytest.approx(0.8 / (10 - 8))
        assert p99 == pytest.approx(math.log(0.8 / 0.01) / 2)

    def test_more_than_can_be_served_waits_for_ever(self) -> None:
        assert queue_wait_s(10, 0.1, 1) == (math.inf, math.inf)
        assert queue_wait_s(0, 0.1, 1) == (0.0, 0.0)

    def test_many_servers_wait_less_at_the_same_load(self) -> None:
        waits = [queue_wait_s(7 * servers, 0.1, servers)[0] for servers in (1, 2, 10, 100, 1000)]
        assert waits == sorted(waits, reverse=True)
        assert waits[-1] < 1e-6

    def test_it_is_what_a_simulation_finds(self) -> None:
        """200,000 customers of four servers: the mean within 4 %, the 99th percentile within 6 %."""
        drawn, free, waits, now = random.Random(3), [0.0] * 4, list[float](), 0.0
        for _ in range(200_000):
            now += drawn.expovariate(30)
            begins = max(now, heappop(free))
            heappush(free, begins + drawn.expovariate(10))
            waits.append(begins - now)
        mean, p99 = queue_wait_s(30, 0.1, 4)
        assert sum(waits) / len(waits) == pytest.approx(mean, rel=0.04)
        assert sorted(waits)[int(0.99 * len(waits))] == pytest.approx(p99, rel=0.06)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hit_rate": 1.1}, {"hit_rate": -0.1}, {"joined": 2}, {"utilization": 1}, {"utilization": 0},
        {"requests_per_s": 0}, {"requests_per_s": math.inf}, {"slots_per_worker": 0}, {"shard_bytes": 0},
        {"output_bytes": -1}, {"expiry_s": -1}, {"entries": -1}, {"item_s": math.nan}, {"items_per_message": 0},
        {"items_per_message": 257}, {"requests_per_trip": 0.5},
    ],
)  # fmt: skip
def test_what_is_no_load_is_refused_with_its_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Load(**{"requests_per_s": 100, **wrong})
