"""What is counted of hits, and which keys are told as the hottest."""

from __future__ import annotations

import random
import threading

import pytest

from foreseen.client.tally import NO_HITS, SAMPLED, Hits, Tally
from foreseen.entry import Entry, Kind, Refreshing
from foreseen.keys import Key
from foreseen.payload import pack


def name(number: int) -> str:
    """Return a digest; numbers differ in the digits that are told."""
    return f"{number:08x}{0:032x}"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(1)


def test_hits_and_what_they_saved_are_counted_until_they_are_taken() -> None:
    hits = Hits()
    for _ in range(100):
        hits.note(name(1), 7)
    hits.saved_us += 5
    counted = hits.take()
    assert (counted.hits, counted.saved_us) == (100, 705)
    assert hits.take() == NO_HITS


@pytest.mark.parametrize("each", [1, 7, 40])
def test_every_hit_is_taken_once_whenever_that_is_done(each: int) -> None:
    hits = Hits()
    for _ in range(200):
        for _ in range(each):
            hits.note(name(1), 1)
        assert hits.take()[:2] == (each, each)


def test_a_key_is_told_by_eight_digits_of_its_digest_whatever_stands_before() -> None:
    hits = Hits()
    for _ in range(2 * SAMPLED):
        hits.note(f"t:e:{{model@1:ab}}:{name(0xABCDEF01)}", 1)
    assert set(hits.take().keys) == {"abcdef01"}


def test_a_sample_tells_about_how_often_a_key_was_hit() -> None:
    hits = Hits()
    for number in range(64_000):
        hits.note(name(1 if number % 4 else 2), 1)
    keys = hits.take().keys
    assert list(keys) == ["00000001", "00000002"]
    assert keys["00000001"] == pytest.approx(48_000, rel=0.1)
    assert keys["00000002"] == pytest.approx(16_000, rel=0.1)


def test_keys_that_come_in_turns_are_noted_alike() -> None:
    """A sample at even distances would only ever meet one of 16."""
    hits = Hits()
    for number in range(160_000):
        hits.note(name(number % SAMPLED), 1)
    keys = hits.take().keys
    assert len(keys) == SAMPLED
    assert all(count == pytest.approx(10_000, rel=0.25) for count in keys.values())


def test_of_ever_so_many_keys_the_hottest_are_told_in_bounded_memory() -> None:
    hits = Hits()
    for number in range(100_000):
        hits.note(name(number), 1)
        hits.note(name(10**6), 1)
    assert len(hits._noted) <= 512
    keys = hits.take().keys
    assert len(keys) == 16
    assert next(iter(keys)) == f"{10**6:08x}"


@pytest.mark.parametrize("at_a_time", [1, 7, 500])
def test_many_at_once_count_as_one_by_one(at_a_time: int) -> None:
    names = [name(number % 100) for number in range(3_000)]
    random.seed(2)
    single = Hits()
    for each in names:
        single.note(each, 5)
    random.seed(2)
    several = Hits()
    for start in range(0, len(names), at_a_time):
        part = names[start : start + at_a_time]
        several.note_many(part, 5 * len(part))
    assert (several.left, several.samples) == (single.left, single.samples)
    assert several.take() == single.take()


@pytest.mark.parametrize("refreshing", [None, Refreshing(20, 0)])
def test_what_an_entry_cost_is_saved_in_either_layout(refreshing: Refreshing | None) -> None:
    tally, key = Tally(), Key("model", "1", name(1))
    entry = Entry(Kind.RESULT, b"generatn", 7, 1, 2, 2**32 - 1, pack("x"), refreshing).encode()
    tally.hit(key, entry)
    tally.stale(key, entry)
    (counted,) = tally.take().values()
    assert (counted.hits, counted.saved_us) == (1, 2 * (2**32 - 1))
    assert tally.take() == {}


def test_no_hit_is_lost_between_threads() -> None:
    tally, key = Tally(), Key("model", "1", name(1))
    entry = Entry(Kind.RESULT, b"generatn", 7, 1, 2, 3, pack("x")).encode()
    taken: list[int] = []

    def hit() -> None:
        for _ in range(5_000):
            tally.hit(key, entry)

    threads = [threading.Thread(target=hit) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += [counted.hits for counted in tally.take().values()]
    taken += [counted.hits for counted in tally.take().values()]
    assert sum(taken) == 20_000
