"""begin and copied: who computes, and what is not computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from foreseen.entry import Entry
from foreseen.flights import Joined, Kind
from foreseen.holding import Begin, Finish

if TYPE_CHECKING:
    from conftest import Steps

DETACHED = Kind.DETACHED


# --- running ----------------------------------------------------------------------------------------------------------


def test_the_first_delivery_runs_under_a_lease(steps: Steps) -> None:
    joined = steps.joined("a")
    begun = steps.begin(joined, "h1")
    assert (begun.code, begun.token) == (Begin.RUN, joined.token)
    assert begun.order > joined.order
    assert len(begun.generation) == 8
    flight = steps.flight()
    assert (flight["state"], flight["holder"], flight["published"]) == ("running", "h1", "1")
    assert 0 < int(flight["lease"]) - steps.now_ms() <= steps.flights.lease_ms


def test_a_second_delivery_is_told_when_the_live_holder_s_lease_ends(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.begin(joined, "h1")
    held = steps.begin(joined, "h2", "m2")
    assert held.code is Begin.HELD
    assert 0 < held.lease_left_ms <= steps.flights.lease_ms
    assert steps.flight()["holder"] == "h1"


def test_a_delivery_after_the_lease_lapsed_runs(steps: Steps) -> None:
    joined = steps.joined("a")
    first = steps.begin(joined, "h1")
    steps.lapse()
    second = steps.begin(joined, "h2")
    assert second.code is Begin.RUN
    assert second.order > first.order
    assert steps.flight()["holder"] == "h2"


def test_a_begin_sent_twice_runs_once(steps: Steps) -> None:
    call = steps.begin_call(steps.joined("a"))
    first = steps.run(call)
    assert steps.run(call) == first
    assert steps.statistic("begun") == 1


def test_a_begin_sent_twice_around_an_invalidation_began_before_it(steps: Steps) -> None:
    call = steps.begin_call(steps.joined("a"))
    steps.run(call)
    steps.invalidate()
    begun = steps.run(call)
    assert begun.code is Begin.RUN
    assert steps.finish(begun).code is Finish.TOLD


def test_a_delivery_of_a_replaced_token_runs_the_flight_that_took_over(steps: Steps) -> None:
    old = steps.joined("a")
    steps.purge()
    new = steps.joined("b")
    begun = steps.begin(old)
    assert (begun.code, begun.token) == (Begin.RUN, new.token)


def test_begin_stamps_the_flight_with_the_generation_it_read(steps: Steps) -> None:
    """Else the next to join would open a second flight in a generation that already has a holder."""
    joined = steps.joined("a")
    steps.purge()
    begun = steps.begin(joined)
    assert steps.redis.get(steps.space.generation(steps.key)) == begun.generation
    assert steps.joined("b").token == joined.token


# --- not running ------------------------------------------------------------------------------------------------------


def test_a_delivery_whose_work_is_done_is_settled(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.finish(steps.begin(joined))
    assert steps.begin(joined, "h2").code is Begin.SETTLED
    assert not steps.flight()


def test_a_refresh_runs_over_the_entry_it_refreshes(steps: Steps) -> None:
    steps.compute()
    assert steps.begin(steps.joined("a", refresh=True)).code is Begin.RUN


def entry_beside_its_flight(steps: Steps, **fields: str) -> Joined:
    """Put a flight back whose entry was written: finish never leaves both, since it ends the one with the other."""
    joined = steps.joined("a")
    begun = steps.begin(joined)
    flight: Any = steps.redis.hgetall(steps.space.flight(steps.key))
    steps.finish(begun, value="done")
    steps.redis.hset(steps.space.flight(steps.key), mapping={**flight, "state": "queued", **fields})
    steps.redis.pexpire(steps.space.flight(steps.key), 60_000)
    return joined


def test_a_queued_flight_for_which_an_entry_was_written_is_ended_and_its_joiners_are_told(steps: Steps) -> None:
    joined = entry_beside_its_flight(steps)
    inbox = steps.inbox("a")
    assert steps.begin(joined, "h2").code is Begin.SETTLED
    assert not steps.flight()
    push = inbox.push()
    assert push.tokens == (joined.token,)
    assert Entry.decode(push.entry) == steps.entry()


@pytest.mark.parametrize("field", [{"state": "running"}, {"generation": "another1"}])
def test_an_entry_ends_no_flight_that_runs_or_is_of_another_generation(steps: Steps, field: dict[str, str]) -> None:
    joined = entry_beside_its_flight(steps, lease="1", **field)
    inbox = steps.inbox("a")
    assert steps.begin(joined, "h2").code is Begin.SETTLED
    assert steps.flight()
    assert not inbox.pushes()


def test_an_older_message_s_entry_does_not_end_a_newer_refresh(steps: Steps) -> None:
    first = steps.joined("a")
    steps.finish(steps.begin(first))
    refresh = steps.joined("a", refresh=True)
    assert steps.begin(first, "h2", "copy").code is Begin.SETTLED
    assert steps.flight()["token"] == refresh.token
    assert steps.begin(refresh, "h3").code is Begin.RUN


def test_an_end_mark_settles_every_later_delivery(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.finish(steps.begin(joined), success=False, expiry_ms=0)
    assert steps.marked(joined.token)
    assert steps.begin(joined, "h2").code is Begin.SETTLED
    assert not steps.flight()


def test_an_end_mark_settles_only_its_own_token(steps: Steps) -> None:
    ended = steps.joined("a")
    steps.finish(steps.begin(ended), success=False, expiry_ms=0)
    successor = steps.joined("a")
    assert steps.begin(ended, "h2").code is Begin.SETTLED
    assert steps.begin(successor, "h3").code is Begin.RUN


def test_an_end_mark_whose_time_is_over_settles_nothing(steps: Steps) -> None:
    joined = steps.joined("a", serial=1)
    steps.leave("a", 1)
    steps.redis.hset(steps.space.ends(steps.key), joined.token, "1:")
    assert steps.begin(joined).code is Begin.RUN


def test_a_flight_nobody_wants_any_more_is_ended(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.write(**{"w:a": "1:1"})
    assert steps.begin(joined).code is Begin.SETTLED
    assert not steps.flight()
    assert steps.marked(joined.token)
    assert steps.statistic("unwanted") == 1


def test_a_detached_submission_is_computed_although_nobody_waits(steps: Steps) -> None:
    joined = steps.joined("a", DETACHED)
    steps.joined("b")
    steps.write(**{"w:b": "1:1"})
    assert steps.begin(joined).code is Begin.RUN


def test_a_delivery_that_is_not_the_latest_copy_just_settles(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.begin(joined, "h1", "m1")
    assert steps.begin(joined, "h2", "m1").code is Begin.HELD
    assert steps.run(steps.flights.copied(steps.key, joined.token, "c1", 1, joined.token))
    assert steps.begin(joined, "h3", "m1").code is Begin.SETTLED
    assert steps.begin(joined, "h4", "c1", copies=1).code is Begin.HELD, "the latest copy makes the next"
    steps.lapse()
    assert steps.begin(joined, "h5", "c1", copies=1).code is Begin.RUN


def test_a_copy_that_is_delivered_before_it_is_noted_makes_the_next(steps: Steps) -> None:
    """Had it settled, the note that came late would name a message that is no more."""
    joined = steps.joined("a")
    steps.begin(joined, "h1", "m1")
    assert steps.run(steps.flights.copied(steps.key, joined.token, "c1", 1, joined.token))
    assert steps.begin(joined, "h2", "c2", copies=2).code is Begin.HELD


def test_of_two_copies_with_one_number_the_first_to_be_noted_stays(steps: Steps) -> None:
    """Two deliveries of one message each sent a copy; the second may have settled because of the first."""
    joined = steps.joined("a")
    steps.begin(joined, "h1", "m1")
    assert steps.run(steps.flights.copied(steps.key, joined.token, "c1", 1, joined.token))
    assert not steps.run(steps.flights.copied(steps.key, joined.token, "c2", 1, joined.token))
    assert steps.begin(joined, "h2", "c2", copies=1).code is Begin.SETTLED
    assert steps.begin(joined, "h3", "c1", copies=1).code is Begin.HELD


def test_a_copy_for_a_flight_that_is_over_stands_for_nothing_in_its_successor(steps: Steps) -> None:
    """Else a redelivery of the successor's own message just settles, and its ack removes the only one there is."""
    first = steps.joined("a")
    begun = steps.begin(first, "h1", "m1")
    assert steps.begin(first, "h2", "m1").code is Begin.HELD
    steps.finish(begun, "h1", "m1")
    refresh = steps.joined("a", DETACHED, refresh=True)
    # Published for the first flight, and only now noted.
    assert not steps.run(steps.flights.copied(steps.key, first.token, "c1", 1, first.token))
    assert steps.begin(first, "h3", "c1").code is Begin.SETTLED, "the copy is done with"
    steps.begin(refresh, "h4", "m2")
    assert steps.begin(refresh, "h5", "m2").code is Begin.HELD


def test_a_flight_that_takes_over_has_no_copy_yet(steps: Steps) -> None:
    """A redelivery of its own message makes one; the old flight's copy may be anywhere."""
    old = steps.joined("a")
    steps.begin(old, "h1", "m1")
    steps.run(steps.flights.copied(steps.key, old.token, "c1", 1, old.token))
    steps.purge()
    new = steps.joined("b")
    steps.begin(new, "h2", "m2")
    assert steps.begin(new, "h3", "m2").code is Begin.HELD


def test_copied_does_not_bring_back_a_flight_that_is_over(steps: Steps) -> None:
    assert not steps.run(steps.flights.copied(steps.key, "0" * 16, "c1", 1, "0" * 16))
    assert not steps.flight()
