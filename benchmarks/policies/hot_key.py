"""What requests for one key take when it expires, with a real worker, a real broker and a model of half a second."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Final

from benchmarks.policies.models import COST_S, EXPIRY_S, Early, Plain, Stale
from benchmarks.policies.record import HotKey, Tell
from benchmarks.stage import Stage, Worker, fresh_text, settings_for
from producer import AsyncProducer

__all__ = ["TARGET", "hot_keys"]

#: The slowest hundredth of the hits at an expiry may take so many times the ordinary hit.
TARGET: Final = 3.0
PER_S: Final = 200
#: What belongs to an expiry, in seconds after it: early refreshes are some 2 s ahead, what waits is over in a second.
_AT_EXPIRY: Final = (-2.5, 1.0)
_MOMENT_S: Final = 0.02
_WORKER: Final = Worker("workers", "benchmarks.policies.models", Plain.name, "threads", 4, "foreseen-policies")


def hot_keys(stage: Stage, rounds: int, tell: Tell) -> list[HotKey]:
    """Ask for a key 200 times a second from its computation until after its expiry; so many keys of each model."""
    stage.have(_WORKER)
    calls: dict[str, list[tuple[float, float]]] = {model.name: [] for model in (Plain, Stale, Early)}
    for number in range(rounds):
        for model in calls:  # in turn, so that all meet the same machine
            tell(f"{model}, key {number + 1} of {rounds}")
            calls[model] += asyncio.run(_calls(stage, model))
    return [_found(model, found) for model, found in calls.items()]


async def _calls(stage: Stage, model: str) -> list[tuple[float, float]]:
    """Return when each request was made, in seconds after the expiry, and how long it took."""
    found: list[tuple[float, float]] = []
    text = fresh_text()
    async with AsyncProducer(settings_for(stage.server, namespace=_WORKER.name)) as producer:
        await producer.predict(model, text)
        expires_at = time.perf_counter() + EXPIRY_S

        async def ask() -> None:
            asked_at = time.perf_counter()
            assert await producer.predict(model, text) == text
            found.append((asked_at - expires_at, time.perf_counter() - asked_at))

        begun_at = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(round((EXPIRY_S + _AT_EXPIRY[1]) * PER_S)):
                await asyncio.sleep(max(0.0, begun_at + number / PER_S - time.perf_counter()))
                group.create_task(ask())
    return sorted(found)


def _found(model: str, calls: Sequence[tuple[float, float]]) -> HotKey:
    first_s, last_s = _AT_EXPIRY
    before = [took_s for at_s, took_s in calls if at_s < first_s]
    at_expiry = [took_s for at_s, took_s in calls if first_s <= at_s < last_s]
    return HotKey(
        model, _slowest(calls),
        _percentile(before, 50), _percentile(before, 99), _percentile(at_expiry, 99),
        sum(took_s >= COST_S / 2 for took_s in at_expiry), len(at_expiry),
    )  # fmt: skip


def _slowest(calls: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return the slowest in each moment, which is enough to see."""
    slowest: dict[int, float] = {}
    for at_s, took_s in calls:
        moment = math.floor(at_s / _MOMENT_S)
        slowest[moment] = max(took_s, slowest.get(moment, 0.0))
    return tuple((round(moment * _MOMENT_S, 2), round(took_s, 6)) for moment, took_s in sorted(slowest.items()))


def _percentile(seconds: Sequence[float], percent: float) -> float:
    ordered = sorted(seconds)
    return round(ordered[math.ceil(percent / 100 * len(ordered)) - 1], 6)
