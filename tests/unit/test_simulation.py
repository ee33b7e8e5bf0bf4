"""The simulation of a large deployment: a slice tells of the whole, and what is lost is missed."""

from __future__ import annotations

import random

import pytest

from benchmarks.scale.shard import Shard
from benchmarks.scale.simulation import Fleet, Loss, Seen, simulate
from workers import CachePolicy

SMALL = Fleet(per_s=200, inputs=20_000, shards=4, workers=40, item_s=0.05, batch_s=0.05, peak=1.0)


def whole(fleet: Fleet, share: float = 1.0, seconds: float = 120.0) -> Seen:
    return simulate(fleet, share, seconds, seconds)[-1]


def test_every_request_is_a_hit_or_joins_or_is_computed() -> None:
    seen = whole(SMALL)
    assert seen.requests == pytest.approx(200 * 120, rel=0.05)
    assert 0 <= seen.requests - seen.hits - seen.joined - seen.computed <= 40 * 8, "the last ones are under way"


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_slice_has_the_hit_rate_and_its_share_of_the_computations(share: float) -> None:
    all_of_it, part = whole(SMALL, seconds=600), whole(SMALL, share, seconds=600)
    assert part.hit_rate == pytest.approx(all_of_it.hit_rate, abs=0.015)
    assert part.computed / share == pytest.approx(all_of_it.computed, rel=0.05)
    assert part.entries / share == pytest.approx(all_of_it.entries, rel=0.05)


def test_a_lost_shard_is_missed_while_it_is_away_and_filled_again() -> None:
    fleet = Fleet(
        per_s=200, inputs=2000, shards=4, workers=80, item_s=0.01, batch_s=0.01, peak=1.0,
        losses=(Loss(120, 60, shards=2),),
    )  # fmt: skip
    before, away, after, later = (simulate(fleet, 1.0, 300, 60)[number] for number in (1, 2, 3, 4))
    assert before.hit_rate > 0.8
    assert away.hit_rate < before.hit_rate - 0.3
    assert away.hit_rate < after.hit_rate < later.hit_rate


def test_lost_workers_make_who_is_computed_wait() -> None:
    busy = Fleet(per_s=200, inputs=1e9, shards=1, workers=30, item_s=0.1, batch_s=0.02, peak=1.0)
    lost = Fleet(
        per_s=200, inputs=1e9, shards=1, workers=30, item_s=0.1, batch_s=0.02, peak=1.0,
        losses=(Loss(0, 1e9, workers=0.5),),
    )  # fmt: skip
    assert whole(lost).wait_s(0.5) > 10 * max(0.001, whole(busy).wait_s(0.5))


def test_a_short_life_is_a_lower_hit_rate() -> None:
    short = Fleet(per_s=200, inputs=2000, shards=4, workers=80, peak=1.0, cache=CachePolicy(expiry_s=5))
    long = Fleet(per_s=200, inputs=2000, shards=4, workers=80, peak=1.0, cache=CachePolicy(expiry_s=500))
    assert whole(short).hit_rate < whole(long).hit_rate - 0.2


class TestShard:
    def test_an_entry_answers_until_it_expires(self) -> None:
        shard = Shard(10, "allkeys-lru", random.Random(1))
        shard.keep(1, 5.0, 0.0)
        assert shard.find(1, 4.9) == 5.0
        assert shard.find(1, 5.0) is None
        assert len(shard) == 0

    @pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu"])
    def test_what_is_used_stays_when_there_is_too_little_room(self, policy: str) -> None:
        shard = Shard(100, policy, random.Random(1))
        for number in range(2000):
            shard.keep(number, 1e9, number)
            for _ in range(3):
                shard.find(0, number)
        assert len(shard) == 100
        assert shard.evicted == 1900
        assert shard.find(0, 2000) is not None

    def test_what_has_expired_goes_in_time(self) -> None:
        shard = Shard(10_000, "allkeys-lru", random.Random(1))
        for number in range(1000):
            shard.keep(number, 1.0, 0.0)
        for number in range(1000, 3000):
            shard.keep(number, 100.0, 2.0)
        assert len(shard) < 2100
