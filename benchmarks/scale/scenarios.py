"""What is simulated: that a slice tells of the whole, a day, what is lost, and how far it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from benchmarks.scale.simulation import Fleet, Loss, Seen, simulate

__all__ = ["Told", "days", "growth", "law", "losses"]

T = TypeVar("T")
Tell = Callable[[str], object]
_HOUR_S: Final = 3600.0
_NOON_S: Final = 12 * _HOUR_S
#: What is lost goes five minutes after the simulation begins, and is away for one.
_LOST_AT_S: Final = 300.0
_AWAY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Told:
    """One stretch of one scenario.

    Attributes:
        name: of the scenario.
        when: of the stretch.
        hit_rate: of all requests.
        computed_per_s: of the whole fleet.
        per_batch: items of one.
        busy: share of the workers' time.
        p50_s: what half of the items waited at most.
        p99_s: and 99 of 100.
        entries: kept in the end, in the whole fleet.
        evicted_per_s: of the whole fleet.
    """

    name: str
    when: str
    hit_rate: float
    computed_per_s: float
    per_batch: float
    busy: float
    p50_s: float
    p99_s: float
    entries: float
    evicted_per_s: float


def law(tell: Tell, *, smoke: bool = False) -> list[Told]:
    """The same deployment by slices of several sizes: two hours after a cold start, with room for half of it."""
    fleet = Fleet(inputs=1e7, room=20_000)
    shares = (1 / 20_000,) if smoke else (1 / 4000, 1 / 2000, 1 / 1000, 1 / 400, 1 / 200)
    hours = 0.2 if smoke else 2.0
    rows: list[Told] = []
    for share in _each(shares, tell, "slice"):
        seen = simulate(fleet, share, hours * _HOUR_S, hours * _HOUR_S)[-1]
        rows.append(_told(f"1/{1 / share:,.0f}", "", fleet, share, seen, hours))
    return rows


def days(tell: Tell, *, smoke: bool = False) -> list[Told]:
    """The second day from a cold start, in quarters, by how much room there is and who is evicted."""
    share = 1 / 50_000 if smoke else 1 / 2000
    rows: list[Told] = []
    for name, fleet in _each(
        (
            ("room for all", Fleet()),
            ("room for a third, `allkeys-lru`", Fleet(room=250_000, eviction="allkeys-lru")),
            ("room for a third, `allkeys-lfu`", Fleet(room=250_000)),
        ),
        tell,
        "day",
    ):
        quarters = simulate(fleet, share, 48 * _HOUR_S, 6 * _HOUR_S)[4:]
        rows += [
            _told(name, when, fleet, share, seen, 6)
            for when, seen in zip(("0 to 6", "6 to 12", "12 to 18", "18 to 24"), quarters, strict=True)
        ]
    return rows


def losses(tell: Tell, *, smoke: bool = False) -> list[Told]:
    """At noon, a shard is lost for a minute, or a rack of ten and a tenth of the workers."""
    share = 1 / 20_000 if smoke else 1 / 50
    kinds = {
        "one shard of 100": Loss(_LOST_AT_S, _AWAY_S, shards=1),
        "a rack: 10 shards, 100 workers": Loss(_LOST_AT_S, _AWAY_S, shards=10, workers=0.1),
        "half of the shards": Loss(_LOST_AT_S, _AWAY_S, shards=50),
    }
    rows: list[Told] = []
    for name, loss in _each(tuple(kinds.items()), tell, "loss"):
        fleet = Fleet(losses=(loss,))
        minutes = simulate(fleet, share, 20 * 60, 60, begin_s=_NOON_S - _LOST_AT_S, warm=True)
        for when, number in (("before", 4), ("while it is away", 5), ("the minute after", 6), ("10 minutes after", 15)):
            rows.append(_told(name, when, fleet, share, minutes[number], 1 / 60))
    return rows


def growth(tell: Tell, *, smoke: bool = False) -> list[Told]:
    """A quarter of an hour at noon, of more and more requests, with the same workers."""
    share = 1 / 20_000 if smoke else 1 / 50
    rows: list[Told] = []
    for times in _each((1.0, 1.5, 2.0, 2.5, 3.0), tell, "load"):
        fleet = replace(Fleet(), per_s=times * Fleet().per_s)
        seen = simulate(fleet, share, 900, 300, begin_s=_NOON_S, warm=True)[-1]
        rows.append(_told(f"{times:g} billion a day", "", fleet, share, seen, 1 / 12))
    return rows


def _told(name: str, when: str, fleet: Fleet, share: float, seen: Seen, hours: float) -> Told:
    seconds = hours * _HOUR_S
    computing_s = seen.computed * fleet.item_s + seen.batches * fleet.batch_s
    return Told(
        name,
        when,
        seen.hit_rate,
        seen.computed / share / seconds,
        seen.computed / max(1, seen.batches),
        computing_s / seconds / max(1, round(fleet.workers * share)),
        seen.wait_s(0.5),
        seen.wait_s(0.99),
        seen.entries / share,
        seen.evicted / share / seconds,
    )


def _each(things: Sequence[T], tell: Tell, what: str) -> Iterator[T]:
    for number, thing in enumerate(things, 1):
        yield thing
        tell(f"{what} {number} of {len(things)}")
