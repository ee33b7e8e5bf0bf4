"""purge, invalidate, generations and the counter: what wins over computations that began before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foreseen.entry import Entry
from foreseen.flights import Hit, Joined
from foreseen.holding import Begin, Finish
from foreseen.keys import Key

if TYPE_CHECKING:
    from conftest import Steps


def value_of(entry: Entry | bytes | None) -> object:
    """Return what an entry holds."""
    assert entry is not None
    outcome = (entry if isinstance(entry, Entry) else Entry.decode(entry)).outcome()
    return getattr(outcome, "value", outcome)


# --- purge ------------------------------------------------------------------------------------------------------------


def test_a_purge_makes_every_entry_of_the_bucket_a_miss(steps: Steps) -> None:
    entry = steps.compute()
    order = steps.purge()
    assert order > entry.order
    assert steps.entry() is None
    assert steps.joined("a").led


def test_a_purge_leaves_other_buckets_alone(steps: Steps) -> None:
    entry = steps.compute()
    other = f"{(int(steps.key.bucket, 16) + 1) % 256:02x}"
    steps.run(steps.flights.purge(steps.key.model_id, other))
    assert steps.entry() == entry


def test_a_computation_that_began_before_a_purge_is_told_to_those_who_joined_and_not_kept(steps: Steps) -> None:
    inbox = steps.inbox("a")
    begun = steps.begin(steps.joined("a"))
    steps.purge()
    assert steps.finish(begun, value="old").code is Finish.TOLD
    assert value_of(inbox.push().entry) == "old"
    assert steps.entry() is None


def test_who_asks_after_a_purge_is_not_answered_by_what_began_before(steps: Steps) -> None:
    early, late = steps.inbox("a"), steps.inbox("b")
    old = steps.joined("a", deadline_ms=0)
    begun = steps.begin(old, "h1")
    steps.purge()
    new = steps.joined("b")
    assert new.led
    assert steps.finish(begun, "h1", value="old").code is Finish.RESEND, "the newer flight has no message yet"
    assert not early.pushes()
    assert not late.pushes()
    again = steps.begin(old, "h2", "m2")
    assert (again.code, again.token) == (Begin.RUN, new.token)
    assert steps.finish(again, "h2", value="new").code is Finish.KEPT
    for inbox in (early, late):
        push = inbox.push()
        assert set(push.tokens) == {old.token, new.token}
        assert value_of(push.entry) == "new"


def test_a_result_from_before_a_purge_is_dropped_if_the_newer_flight_has_a_message(steps: Steps) -> None:
    begun = steps.begin(steps.joined("a"))
    steps.purge()
    new = steps.joined("b")
    steps.run(steps.flights.published(steps.key, new.token))
    assert steps.finish(begun, value="old").code is Finish.SETTLED
    assert steps.entry() is None
    assert steps.flight()["token"] == new.token


def test_a_flight_over_an_older_one_takes_over_joiners_deadline_and_priority_but_not_that_it_was_published(
    steps: Steps,
) -> None:
    old = steps.joined("a", serial=7, priority=8)
    steps.run(steps.flights.published(steps.key, old.token))
    steps.purge()
    new = steps.joined("b", serial=1, priority=2, deadline_ms=1000)
    assert (new.led, new.publish, new.priority, new.deadline_ms) == (True, True, 8, 0)
    flight = steps.flight()
    assert flight["w:a"].startswith("7:")
    assert (flight["published"], flight["replaced"], flight["state"]) == ("0", old.token, "queued")


def test_a_purge_sent_twice_does_not_undo_another_purge_in_between(steps: Steps) -> None:
    """The first reply was lost; an entry from between the two would come back with the generation it belongs to."""
    purge = steps.flights.purge(steps.key.model_id, steps.key.bucket)
    steps.run(purge)
    steps.compute(value="between")
    steps.purge()
    steps.run(purge)
    assert steps.entry() is None


def test_an_entry_in_a_layout_of_another_release_is_a_miss_for_every_step(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.finish(steps.begin(joined))
    name = steps.space.entry(steps.key)
    steps.redis.setrange(name, 0, b"\x03")
    assert steps.entry() is None
    assert isinstance(steps.look(joined.token), Joined)
    refresh = steps.joined("b")
    assert steps.finish(steps.begin(refresh), success=False, expiry_ms=60_000).code is Finish.KEPT


# --- invalidate -------------------------------------------------------------------------------------------------------


def test_an_invalidation_forgets_the_entry_and_says_whether_there_was_one(steps: Steps) -> None:
    assert not steps.invalidate()
    steps.compute()
    assert steps.invalidate()
    assert steps.entry() is None
    assert not steps.invalidate()


def test_an_invalidation_leaves_other_keys_of_the_bucket_alone(steps: Steps) -> None:
    entry = steps.compute()
    other = Key(steps.key.model, steps.key.version, steps.key.digest[:2] + "0" * 38)
    steps.run(steps.flights.invalidate(other))
    assert steps.entry() == entry


def test_a_computation_in_the_middle_is_told_and_not_kept_and_the_next_opens_a_flight(steps: Steps) -> None:
    early, late = steps.inbox("a"), steps.inbox("b")
    old = steps.joined("a")
    begun = steps.begin(old, "h1")
    steps.invalidate()
    assert steps.finish(begun, "h1", value="old").code is Finish.TOLD
    assert value_of(early.push().entry) == "old"
    assert steps.entry() is None
    new = steps.joined("b")
    assert new.led
    assert not late.pushes()


def test_who_joins_after_an_invalidation_is_not_answered_by_what_began_before(steps: Steps) -> None:
    late = steps.inbox("b")
    old = steps.joined("a")
    begun = steps.begin(old, "h1")
    steps.invalidate()
    new = steps.joined("b")
    assert new.led
    assert new.token != old.token
    assert steps.finish(begun, "h1", value="old").code is Finish.RESEND
    assert not late.pushes()
    assert steps.finish(steps.begin(new, "h2"), "h2", value="new").code is Finish.KEPT
    assert value_of(late.push().entry) == "new"


def test_an_invalidation_of_a_queued_flight_needs_no_second_one(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.invalidate()
    assert steps.joined("b").token == joined.token
    assert steps.finish(steps.begin(joined)).code is Finish.KEPT


def test_an_order_mark_outlives_the_flight_it_was_set_against(steps: Steps) -> None:
    joined = steps.joined("a", serial=1)
    begun = steps.begin(joined)
    steps.invalidate()
    steps.give_up(died=False)
    assert steps.leave("a", 1)
    assert steps.finish(begun, value="old").code is Finish.SETTLED
    assert steps.entry() is None


def test_an_evicted_order_mark_is_made_up_for_by_the_flight(steps: Steps) -> None:
    """The flight remembers too that its key was invalidated, so both would have to be evicted."""
    begun = steps.begin(steps.joined("a"))
    steps.invalidate()
    steps.redis.delete(steps.space.invalidated(steps.key))
    assert steps.finish(begun, value="old").code is Finish.TOLD
    assert steps.entry() is None


def test_a_computation_that_began_after_the_invalidation_is_kept(steps: Steps) -> None:
    steps.invalidate()
    steps.compute(value="new")
    assert value_of(steps.entry()) == "new"


def test_an_invalidation_sent_twice_costs_a_computation_and_nothing_else(steps: Steps) -> None:
    call = steps.flights.invalidate(steps.key)
    steps.run(call)
    begun = steps.begin(steps.joined("a"))
    steps.run(call)
    assert steps.finish(begun).code is Finish.TOLD


# --- eviction ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["generation", "clock"])
def test_a_bucket_that_lost_its_generation_or_its_counter_is_purged(steps: Steps, kind: str) -> None:
    entry = steps.compute()
    joined = steps.joined("a", refresh=True)
    begun = steps.begin(joined, "h1")
    name = getattr(steps.space, kind)(steps.key)
    steps.redis.delete(name)
    steps.joined("b", refresh=True)
    assert steps.entry() is None
    assert steps.redis.get(steps.space.generation(steps.key)) != entry.generation
    assert steps.finish(begun, "h1").code is not Finish.KEPT
    assert steps.entry() is None


def test_a_join_sent_twice_does_not_bring_back_a_generation_that_was_lost_twice(steps: Steps) -> None:
    generation = steps.space.generation(steps.key)
    call = steps.flights.join(steps.ticket("a"))
    joined = steps.run(call)
    steps.finish(steps.begin(joined), value="old")
    steps.redis.delete(generation)
    steps.joined("b")
    steps.redis.delete(generation)
    assert isinstance(steps.run(call), Joined)
    assert steps.entry() is None


@pytest.mark.parametrize("kind", ["generation", "clock"])
def test_a_lost_generation_or_counter_never_brings_an_old_entry_back(steps: Steps, kind: str) -> None:
    steps.compute(value="old")
    steps.purge()
    steps.redis.delete(getattr(steps.space, kind)(steps.key))
    assert isinstance(steps.join("a"), Joined)


def test_a_computation_whose_generation_was_lost_is_told_and_not_kept(steps: Steps) -> None:
    inbox = steps.inbox("a")
    begun = steps.begin(steps.joined("a"))
    steps.redis.delete(steps.space.generation(steps.key))
    assert steps.finish(begun, value="told").code is Finish.TOLD
    assert value_of(inbox.push().entry) == "told"
    assert steps.entry() is None


def test_an_evicted_entry_is_computed_again(steps: Steps) -> None:
    steps.compute()
    steps.redis.delete(steps.space.entry(steps.key))
    assert steps.joined("a").led


def test_the_counter_never_runs_backwards_while_the_bucket_stands(steps: Steps) -> None:
    orders = [steps.joined("a").order]
    for _ in range(3):
        orders.append(steps.begin(steps.joined("a")).order)
        steps.lapse()
        orders.append(steps.purge())
        steps.invalidate()
        orders.append(steps.joined("b").order)
    assert orders == sorted(set(orders))


def test_what_a_lost_master_alone_had_counted_is_older_than_an_invalidation_since(steps: Steps) -> None:
    """A replica that takes its place has not heard of it: its counter is behind, and its clock is not."""
    steps.compute()
    clock = steps.space.clock(steps.key)
    heard = steps.redis.hget(clock, "order")
    begun = steps.begin(steps.joined("a", refresh=True))
    while (now := steps.redis.time())[0] * 1000 + now[1] // 1000 <= begun.order:
        pass  # a failover takes longer than that
    steps.redis.hset(clock, "order", heard)
    steps.redis.delete(steps.space.flight(steps.key))
    steps.invalidate()
    assert steps.finish(begun, value="old").code is Finish.RESEND, "it is owed to who asked, and computed anew"
    assert steps.entry() is None


def test_a_bucket_that_is_asked_is_kept(steps: Steps) -> None:
    """Generation and counter get their full life again when half of it is gone."""
    steps.compute()
    generation, clock = steps.space.generation(steps.key), steps.space.clock(steps.key)
    steps.redis.hset(clock, "until", steps.now_ms() + 60_000)
    for name in (generation, clock):
        steps.redis.pexpire(name, 60_000)
    assert isinstance(steps.look("none"), Hit)
    for name in (generation, clock):
        assert int(steps.redis.pttl(name)) > 86_400_000  # type: ignore[arg-type]
