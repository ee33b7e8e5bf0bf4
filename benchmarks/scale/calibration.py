"""What a hit, an item and a message cost each role: two kinds of misses, and what differs between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from statistics import median
from typing import Final

from benchmarks.scale.deployment import ROLES, Deployment, deployed
from benchmarks.stage import DEADLINE_S, ECHO, MODEL, fresh_texts
from foreseen.capacity import Costs
from producer import AsyncProducer

__all__ = ["calibrated"]

#: Callers of one process who hit at the same time, and how often.
_CALLERS: Final = 64
_HITS: Final = 32_000
#: Of those, how many share a round trip.
_SHARING: Final = 32
#: Hits one after the other.
_LONE_HITS: Final = 4_000
#: So long nothing is asked.
_IDLE_S: Final = 3.0
#: Misses one after the other, a message each; and at once, in messages of 256.
_LONE: Final = 400
_TOGETHER: Final = 5_120
_PER_MESSAGE: Final = 256


def calibrated(rounds: int, tell: Callable[[str], object]) -> Costs:
    """Return the medians over rounds."""
    found: list[dict[str, float]] = []
    with deployed(ECHO) as on:
        for number in range(rounds):
            found.append(_round(on))
            tell(f"costs, round {number + 1} of {rounds}")
    return Costs(**{name: round(max(0.0, median(each[name] for each in found)), 1) for name in found[0]})


def _round(on: Deployment) -> dict[str, float]:
    idle = _spent(on, 1, lambda: time.sleep(_IDLE_S))
    trips = _spent(on, _LONE_HITS, lambda: _lone_hits(on, _LONE_HITS))
    hits = _spent(on, _HITS, lambda: asyncio.run(_hit(on, _HITS)))
    lone = _spent(on, _LONE, lambda: _lone(on, fresh_texts(_LONE)))
    together = _spent(on, _TOGETHER, lambda: _at_once(on, fresh_texts(_TOGETHER)))
    message = {role: (lone[role] - together[role]) * _PER_MESSAGE / (_PER_MESSAGE - 1) for role in ROLES}
    item = {role: lone[role] - message[role] for role in ROLES}
    # Lone hits take a round trip each, those of so many tasks share one for half of them (see docs/performance.md).
    trip = {role: (trips[role] - hits[role]) * _SHARING / (_SHARING - 1) for role in ROLES}
    return {
        "producer_trip": trip["producers"],
        "producer_hit": trips["producers"] - trip["producers"],
        "producer_miss": item["producers"],
        "producer_message": message["producers"],
        "cache_trip": trip["cache"],
        "cache_hit": trips["cache"] - trip["cache"],
        "cache_miss": item["cache"],
        "cache_message": message["cache"],
        "broker_message": lone["broker"],
        "worker_item": item["workers"],
        "worker_message": message["workers"],
        "cache_idle": idle["cache"] / _IDLE_S,
        "broker_idle": idle["broker"] / _IDLE_S,
        "worker_idle": idle["workers"] / _IDLE_S,
    }


def _spent(on: Deployment, count: int, work: Callable[[], object]) -> dict[str, float]:
    """Return what each role spent on one of so many, in microseconds."""
    before = on.spent_s()
    work()
    after = on.spent_s()
    return {role: (after[role] - before[role]) / count * 1e6 for role in ROLES}


def _lone_hits(on: Deployment, count: int) -> None:
    (text,) = fresh_texts(1)
    for _ in range(count):
        assert on.producer.predict(MODEL, text, timeout=DEADLINE_S) == text


def _lone(on: Deployment, texts: list[str]) -> None:
    for text in texts:
        assert on.producer.predict(MODEL, text, timeout=DEADLINE_S) == text


def _at_once(on: Deployment, texts: list[str]) -> None:
    assert [pending.result(DEADLINE_S) for pending in on.producer.submit_many(MODEL, texts)] == texts


async def _hit(on: Deployment, count: int) -> None:
    known = fresh_texts(_CALLERS)
    async with AsyncProducer(on.settings) as producer:
        for pending in await producer.submit_many(MODEL, known):
            await pending.result(DEADLINE_S)

        async def caller(text: str) -> None:
            for _ in range(count // _CALLERS):
                assert await producer.predict(MODEL, text, timeout=DEADLINE_S) == text

        await asyncio.gather(*map(caller, known))
