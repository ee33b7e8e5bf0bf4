"""join, published, peek and leave: who leads, who follows, who publishes, and who still wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foreseen.entry import Entry
from foreseen.flights import Hit, Joined, Kind, Unknown
from foreseen.holding import Begin, Finish

if TYPE_CHECKING:
    from conftest import Steps

DETACHED, WAITER = Kind.DETACHED, Kind.WAITER


# --- join -------------------------------------------------------------------------------------------------------------


def test_the_first_caller_leads_and_is_to_publish(steps: Steps) -> None:
    joined = steps.joined("a")
    assert (joined.led, joined.publish, joined.token) == (True, True, steps.flight()["token"])
    assert joined.wait_ms == steps.flights.lease_ms
    assert abs(joined.now_ms - steps.now_ms()) < 5000


def test_the_second_caller_follows_and_does_not_publish(steps: Steps) -> None:
    first, second = steps.joined("a"), steps.joined("b")
    assert (second.led, second.publish) == (False, False)
    assert (second.token, second.order) == (first.token, first.order)


def test_a_current_entry_answers_and_opens_nothing(steps: Steps) -> None:
    entry = steps.compute(value="known")
    reply = steps.join("a")
    assert isinstance(reply, Hit)
    assert Entry.decode(reply.entry) == entry
    assert not steps.flight()


def test_a_refresh_opens_a_flight_over_an_entry_and_leaves_the_entry_to_others(steps: Steps) -> None:
    entry = steps.compute()
    refresh = steps.joined("a", refresh=True)
    assert refresh.led
    assert refresh.order > entry.order
    assert isinstance(steps.join("b"), Hit)


def test_a_refresh_joins_the_flight_there_is(steps: Steps) -> None:
    first = steps.joined("a")
    assert steps.joined("b", refresh=True).token == first.token


def test_bytes_that_are_no_entry_are_a_miss(steps: Steps) -> None:
    steps.compute()
    generation = steps.redis.get(steps.space.generation(steps.key))
    assert isinstance(generation, bytes)
    for torn in (b"", b"R", b"\x01RR", b"\x02R\x01" + generation + bytes(40), b"\x01R\x01" + bytes(80)):
        steps.redis.set(steps.space.entry(steps.key), torn, px=60_000)
        reply = steps.join("a", may_open=False)
        assert isinstance(reply, Unknown), torn


def test_an_entry_of_this_generation_that_is_none_is_counted_and_no_other_is(steps: Steps) -> None:
    """What was purged is no defect; what another release wrote, or somebody else, is to be seen."""
    steps.compute()
    name = steps.space.entry(steps.key)
    steps.redis.setrange(name, 0, b"\x03")
    steps.join("a", refresh=True)
    assert steps.statistic("unreadable") == 0, "who wants it anew has not looked at it"
    assert isinstance(steps.join("b"), Joined)
    assert steps.statistic("unreadable") == 1
    steps.redis.setrange(name, 3, b"purgedxx")
    steps.join("c")
    assert steps.statistic("unreadable") == 1


def test_an_attacher_follows_but_never_opens(steps: Steps) -> None:
    assert steps.join("a", may_open=False) == Unknown()
    assert not steps.flight()
    leader = steps.joined("b")
    assert steps.joined("a", may_open=False).token == leader.token
    assert "w:a" in steps.flight()


def test_an_attacher_does_not_follow_a_flight_of_an_older_generation(steps: Steps) -> None:
    steps.joined("b")
    steps.purge()
    assert steps.join("a", may_open=False) == Unknown()


def test_a_join_sent_twice_leads_twice_but_opens_once(steps: Steps) -> None:
    call = steps.flights.join(steps.ticket("a"))
    first, second = steps.run(call), steps.run(call)
    assert first.led
    assert first.publish
    assert (second.led, second.publish, second.token, second.order) == (True, True, first.token, first.order)
    assert steps.statistic("opened") == 1


def test_a_join_sent_again_after_its_flight_has_ended_opens_another(steps: Steps) -> None:
    """Before the call was sent again, somebody else had the flight computed; its end mark stands for its messages."""
    call = steps.flights.join(steps.ticket("a"))
    first = steps.run(call)
    steps.finish(steps.begin(first), value="first", expiry_ms=0)
    second = steps.run(call)
    assert second.led
    assert second.token != first.token
    assert steps.begin(second, "h2").code is Begin.RUN


def test_a_join_sent_again_does_not_lead_others_to_what_was_told_before_a_purge(steps: Steps) -> None:
    call = steps.flights.join(steps.ticket("a"))
    steps.finish(steps.begin(steps.run(call)), value="old", expiry_ms=0)
    steps.purge()
    steps.run(call)
    follower = steps.joined("b")
    assert not follower.led
    assert isinstance(steps.look(follower.token, "b"), Joined)


def test_a_detached_follower_of_an_unmarked_flight_publishes_too(steps: Steps) -> None:
    """Its leader may have died before it published, and `submit` promises a message in the broker."""
    leader = steps.joined("a")
    assert steps.joined("b", DETACHED).publish
    assert not steps.joined("c", WAITER).publish
    steps.run(steps.flights.published(steps.key, leader.token))
    assert not steps.joined("d", DETACHED).publish


def test_deadlines_are_merged_to_the_latest_and_none_is_the_latest(steps: Steps) -> None:
    first = steps.joined("a", deadline_ms=5_000)
    assert first.deadline_ms == first.now_ms + 5_000
    later = steps.joined("b", deadline_ms=50_000)
    assert later.deadline_ms == later.now_ms + 50_000
    assert steps.joined("c", deadline_ms=1_000).deadline_ms == later.deadline_ms
    assert steps.joined("d").deadline_ms == 0
    assert steps.joined("e", deadline_ms=1_000).deadline_ms == 0


def test_of_two_submissions_of_one_inbox_the_longer_wish_stands(steps: Steps) -> None:
    """They share a place in the flight: a shorter deadline, or a look on its way for long, does not cut it."""
    steps.joined("a", DETACHED, deadline_ms=50_000)
    until = steps.flight()["d:a"].partition(":")[2]
    steps.joined("a", DETACHED, deadline_ms=1_000)
    assert steps.flight()["d:a"].partition(":")[2] == until
    steps.joined("a", DETACHED)
    steps.joined("a", DETACHED, deadline_ms=1_000)
    assert steps.flight()["d:a"].endswith(":0")
    steps.joined("a", WAITER)
    steps.write(**{"w:a": f"1:{steps.now_ms() + 10_000_000}"})
    until = steps.flight()["w:a"].partition(":")[2]
    steps.joined("a", WAITER)
    assert steps.flight()["w:a"].partition(":")[2] == until


def test_a_higher_priority_is_merged_and_publishes_a_second_message(steps: Steps) -> None:
    steps.joined("a", priority=4)
    lower, higher = steps.joined("b", priority=2), steps.joined("c", priority=9)
    assert (lower.priority, lower.publish) == (4, False)
    assert (higher.priority, higher.publish) == (9, True)


def test_a_higher_priority_publishes_nothing_once_the_flight_runs(steps: Steps) -> None:
    steps.begin(steps.joined("a", priority=4))
    assert not steps.joined("c", priority=9).publish


def test_a_join_that_raises_the_priority_publishes_also_when_it_is_sent_again(steps: Steps) -> None:
    steps.joined("a", priority=4)
    call = steps.flights.join(steps.ticket("b", priority=9))
    assert steps.run(call).publish
    assert steps.run(call).publish, "the first reply was lost, so nobody has published"


def test_who_joins_a_running_flight_waits_until_its_lease_ends(steps: Steps) -> None:
    steps.begin(steps.joined("a"))
    steps.write(lease=steps.now_ms() + 7_000)
    assert 5_000 < steps.joined("b").wait_ms <= 7_000


def test_who_joins_a_flight_whose_lease_lapsed_looks_again_at_once(steps: Steps) -> None:
    steps.begin(steps.joined("a"))
    steps.lapse()
    assert steps.joined("b").wait_ms == 1


def test_an_attacher_does_not_poll_a_flight_that_it_cannot_take_over(steps: Steps) -> None:
    """It has no input to send, so it waits for somebody who has; one look per lease is enough for that."""
    joined = steps.joined("a", DETACHED)
    steps.begin(joined)
    steps.lapse()
    assert steps.joined("b", may_open=False).wait_ms == steps.flights.lease_ms
    look = steps.look(joined.token, "b", may_open=False)
    assert isinstance(look, Joined)
    assert look.wait_ms == steps.flights.lease_ms


# --- published and peek -----------------------------------------------------------------------------------------------


def test_published_marks_the_flight_that_its_token_names(steps: Steps) -> None:
    joined = steps.joined("a")
    assert steps.run(steps.flights.published(steps.key, joined.token))
    assert steps.flight()["published"] == "1"


def test_published_with_another_token_marks_nothing(steps: Steps) -> None:
    """By key alone, a late mark would say of a successor that its message is out."""
    steps.joined("a")
    assert not steps.run(steps.flights.published(steps.key, "other"))
    assert "published" not in steps.flight()


def test_published_does_not_bring_back_a_flight_that_is_over(steps: Steps) -> None:
    assert not steps.run(steps.flights.published(steps.key, "over"))
    assert not steps.flight()


def test_a_mark_for_a_flight_that_was_taken_over_does_not_mark_its_successor(steps: Steps) -> None:
    old = steps.joined("a")
    steps.purge()
    steps.joined("b")
    assert not steps.run(steps.flights.published(steps.key, old.token))
    assert steps.flight()["published"] == "0"


def test_peek_reads_the_current_entry_and_nothing_else(steps: Steps) -> None:
    assert steps.entry() is None
    entry = steps.compute()
    assert steps.entry() == entry
    steps.purge()
    assert steps.entry() is None


# --- leave ------------------------------------------------------------------------------------------------------------


def test_the_last_who_leaves_ends_the_flight_under_an_end_mark(steps: Steps) -> None:
    joined = steps.joined("a", serial=1)
    steps.joined("b", serial=2)
    assert not steps.leave("a", 1)
    assert steps.leave("b", 2)
    assert not steps.flight()
    assert steps.marked(joined.token)
    assert steps.begin(joined).code is Begin.SETTLED


def test_a_leave_with_an_older_serial_than_the_join_that_stands_does_nothing(steps: Steps) -> None:
    steps.joined("a", serial=1)
    steps.joined("a", serial=2)
    assert not steps.leave("a", 1)
    assert "w:a" in steps.flight()
    assert steps.leave("a", 2)


def test_an_older_join_that_arrives_late_does_not_lower_the_serial(steps: Steps) -> None:
    steps.joined("a", serial=5)
    steps.joined("a", serial=3)
    assert not steps.leave("a", 4)
    assert steps.leave("a", 5)


def test_a_waiter_who_leaves_ends_nothing_for_the_detached_of_its_own_inbox(steps: Steps) -> None:
    steps.joined("a", WAITER, serial=1)
    steps.joined("a", DETACHED, serial=2)
    assert not steps.leave("a", 3, WAITER)
    assert "d:a" in steps.flight()


def test_somebody_who_never_joined_ends_nothing(steps: Steps) -> None:
    steps.joined("a")
    assert not steps.leave("b", 99)
    assert steps.flight()


@pytest.mark.parametrize("kind", [WAITER, DETACHED])
def test_a_leave_sent_twice_is_one_leave(steps: Steps, kind: Kind) -> None:
    steps.joined("a", kind, serial=1)
    assert steps.leave("a", 1, kind)
    assert not steps.leave("a", 1, kind)
    assert not steps.flight()
    assert steps.statistic("unwanted") == 1


def test_lapsed_waiters_and_detached_past_their_deadline_do_not_hold_a_flight(steps: Steps) -> None:
    steps.joined("a", serial=1)
    steps.joined("b", serial=2)
    steps.joined("c", DETACHED, serial=3)
    steps.write(**{"w:b": "2:1", "d:c": "3:1"})
    assert steps.leave("a", 1)


def test_a_running_flight_that_everybody_left_goes_on_and_who_asks_next_joins_it(steps: Steps) -> None:
    """Ended, it would be computed a second time beside the one that nobody can stop."""
    joined = steps.joined("a", serial=1)
    begun = steps.begin(joined)
    assert not steps.leave("a", 1)
    inbox = steps.inbox("b")
    other = steps.joined("b")
    assert (other.led, other.publish, other.token) == (False, False, joined.token)
    assert steps.finish(begun, value="the only one").code is Finish.KEPT
    assert inbox.push().tokens == (joined.token,)


def test_a_running_flight_that_everybody_left_is_dropped_once_its_holder_is_gone(steps: Steps) -> None:
    joined = steps.joined("a", serial=1)
    steps.begin(joined, "h1")
    steps.leave("a", 1)
    steps.lapse()
    assert steps.begin(joined, "h2").code is Begin.SETTLED
    assert not steps.flight()
    assert steps.marked(joined.token)


def test_a_leave_marks_the_tokens_that_its_flight_replaced(steps: Steps) -> None:
    old = steps.joined("a", serial=1)
    steps.purge()
    new = steps.joined("b", serial=1)
    assert not steps.leave("a", 1)
    assert steps.leave("b", 1)
    assert steps.marked(old.token)
    assert steps.marked(new.token)
