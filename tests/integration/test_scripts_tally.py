"""tally: what producers counted of hits, added up; and the hottest keys, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from foreseen import statistics
from foreseen.flights import HOTTEST_MS, KEEP_MS, MOST_HOTTEST

if TYPE_CHECKING:
    from conftest import Steps

MODEL = "model@1"


def tell(steps: Steps, hit: int = 0, near: int = 0, saved_us: int = 0, keys: Mapping[str, int] | None = None) -> None:
    steps.run(steps.flights.tally(MODEL, hit, near, saved_us, keys or {}))


def test_entries_that_a_producer_could_not_read_are_counted(steps: Steps) -> None:
    for count in (2, 0, 3):
        steps.run(steps.flights.tally(MODEL, 0, 0, 0, {}, count))
    assert counts(steps).unreadable == 5


def hottest(steps: Steps) -> dict[str, int]:
    return statistics.parse_hottest(steps.cache.commands(statistics.read_hottest(steps.space, MODEL)))


def counts(steps: Steps) -> statistics.Counts:
    return statistics.parse(steps.cache.commands(statistics.read(steps.space, MODEL)))


def lives_ms(steps: Steps, name: str) -> int:
    return int(steps.redis.pttl(name))  # type: ignore[arg-type]


def test_tallies_add_up_beside_what_scripts_count(steps: Steps) -> None:
    tell(steps, 3, 2, 10**12)
    tell(steps, 4, 0, 5)
    tell(steps)
    steps.finish(steps.begin(steps.joined("a")), cost_us=700)
    counted = counts(steps)
    assert (counted.hit, counted.near, counted.saved_us) == (7, 2, 10**12 + 5)
    assert (counted.opened, counted.computed, counted.spent_us) == (1, 1, 700)
    assert 0 < lives_ms(steps, steps.space.statistics_of(MODEL, "00")) <= KEEP_MS


def test_what_a_failure_cost_is_spent_and_what_counts_no_more_is_not(steps: Steps) -> None:
    begun = steps.begin(steps.joined("a"))
    steps.finish(begun, success=False, cost_us=300)
    steps.finish(begun, success=True, cost_us=10_000)
    assert counts(steps).spent_us == 10_300, "a late success counts, as it is kept"
    steps.finish(begun, success=True, cost_us=10_000)
    assert counts(steps).spent_us == 10_300


def test_hits_of_a_key_add_up(steps: Steps) -> None:
    tell(steps, keys={"0000000a": 16, "0000000b": 32})
    tell(steps, keys={"0000000a": 64})
    assert list(hottest(steps).items()) == [("0000000a", 80), ("0000000b", 32)]


def test_of_many_keys_the_hottest_stay_in_bounded_memory(steps: Steps) -> None:
    """One in four hits is of one key, and the rest never of the same: that one is found though it comes last."""
    tell(steps, keys={f"{number:08x}": 16 for number in range(MOST_HOTTEST)})
    for number in range(1000, 1100):
        tell(steps, keys={f"{number + 1000 * each:08x}": 16 for each in range(1, 4)} | {"feedfeed": 16})
    found = hottest(steps)
    assert len(found) == MOST_HOTTEST
    assert next(iter(found)) == "feedfeed"
    assert 1600 <= found["feedfeed"] <= 1600 + 6400 / MOST_HOTTEST


def test_the_hottest_are_those_of_an_hour_at_most(steps: Steps) -> None:
    tell(steps, keys={"0000000a": 16})
    key = steps.space.hottest_of(MODEL)
    assert HOTTEST_MS - 60_000 < lives_ms(steps, key) <= HOTTEST_MS
    steps.redis.pexpire(key, 60_000)
    tell(steps, keys={"0000000b": 16})
    assert lives_ms(steps, key) <= 60_000, "who is noted later does not put that off"


def test_fields_that_are_no_numbers_stop_nobody(steps: Steps) -> None:
    for name in (steps.space.hottest_of(MODEL), steps.space.statistics_of(MODEL, "00")):
        steps.redis.hset(name, mapping={"0000000a": "no number", "hit": "no number"})
        steps.redis.pexpire(name, 60_000)
    tell(steps, 3, keys={"0000000a": 16})
    assert hottest(steps)["0000000a"] == 16
