"""Whether the capacity model adds up: paced load on this machine at several sizes, beside what it says of each."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Final

from benchmarks.scale.deployment import ROLES, Deployment, deployed
from benchmarks.scale.models import BATCH_S, ITEM_S
from benchmarks.stage import DEADLINE_S, Worker, fresh_text, fresh_texts
from foreseen.capacity import Costs, Load, Plan, plan
from producer import PendingPrediction

__all__ = ["SIZES", "Check", "Sized", "checked"]

_MODEL: Final = "scale-timed"
_SLOTS: Final = 8
_WORKER: Final = Worker("workers", "benchmarks.scale.models", _MODEL, "threads", _SLOTS, "foreseen-scale")
#: Requests are submitted together that come within this time, as one process's callers' are.
_TICK_S: Final = 0.02
_KNOWN: Final = 500


@dataclass(frozen=True, slots=True)
class Sized:
    """A load: requests a second, and the share that is known."""

    per_s: int
    hit_rate: float


SIZES: Final = (Sized(100, 0.5), Sized(500, 0.5), Sized(500, 0.9), Sized(2000, 0.9), Sized(4000, 0.97))


@dataclass(frozen=True, slots=True)
class Check:
    """One load, said and measured.

    Attributes:
        per_s: requests a second that were asked for.
        hit_rate: share that an entry answered.
        items_per_message: as they went.
        said: cores of each role, slots that are busy, and seconds that a miss takes, by the model.
        measured: the same.
    """

    per_s: float
    hit_rate: float
    items_per_message: float
    said: dict[str, float]
    measured: dict[str, float]


def checked(costs: Costs, seconds: float, tell: Callable[[str], object]) -> list[Check]:
    """Run each size for so long."""
    with deployed(_WORKER) as on:
        checks: list[Check] = []
        for size in SIZES:
            checks.append(_check(on, size, costs, seconds))
            tell(f"{size.per_s} requests/s, {size.hit_rate:.0%} hits")
        return checks


def _check(on: Deployment, size: Sized, costs: Costs, seconds: float) -> Check:
    known = fresh_texts(_KNOWN)
    for pending in on.producer.submit_many(_MODEL, known):
        pending.result(DEADLINE_S)
    drawn = random.Random(1)
    ticks = round(seconds / _TICK_S)
    per_tick = size.per_s * _TICK_S
    took_s: list[float] = []
    misses: list[PendingPrediction[str]] = []
    messages = asked = 0
    before, began = on.spent_s(), time.monotonic()
    for tick in range(ticks):
        wait_s = began + tick * _TICK_S - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        count = int((tick + 1) * per_tick) - int(tick * per_tick)
        texts = [drawn.choice(known) if drawn.random() < size.hit_rate else fresh_text() for _ in range(count)]
        asked += count
        sent_at = time.monotonic()
        open_ones = [each for each in on.producer.submit_many(_MODEL, texts) if not each.done()]
        for pending in open_ones:
            pending.add_done_callback(lambda _, sent_at=sent_at: took_s.append(time.monotonic() - sent_at))
        misses += open_ones
        messages += bool(open_ones)
    for pending in misses:
        pending.result(DEADLINE_S)
    lasted_s = time.monotonic() - began
    after = on.spent_s()
    load = Load(
        requests_per_s=asked / lasted_s,
        hit_rate=1 - len(misses) / asked,
        requests_per_trip=max(1.0, per_tick),
        items_per_message=max(1.0, len(misses) / messages),
        item_s=ITEM_S,
        batch_s=BATCH_S,
        slots_per_worker=_SLOTS,
    )
    busy = load.computed_per_s * ITEM_S + load.messages_per_s * BATCH_S
    return Check(
        load.requests_per_s,
        load.hit_rate,
        load.items_per_message,
        {**_said(plan(load, costs)), "slots busy": busy, "a miss": BATCH_S + ITEM_S * load.items_per_message},
        {
            **{role: (after[role] - before[role]) / lasted_s for role in ROLES},
            "slots busy": busy,
            "a miss": mean(took_s),
        },
    )


def _said(told: Plan) -> dict[str, float]:
    return {need.role: need.cores for need in told.needs}
