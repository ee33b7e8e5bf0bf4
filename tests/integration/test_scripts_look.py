"""look: what a submission that has heard nothing finds, and who takes over or sends again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foreseen.entry import Entry
from foreseen.flights import Hit, Joined, Kind, Reply, Unknown, Watermark
from foreseen.holding import Begin, Finish

if TYPE_CHECKING:
    from conftest import Steps


def value(reply: Reply) -> object:
    """Return the value of an answer."""
    assert isinstance(reply, Hit), reply
    outcome = Entry.decode(reply.entry).outcome()
    return getattr(outcome, "value", outcome)


def published(reply: Reply) -> bool:
    assert isinstance(reply, Joined), reply
    return reply.publish


# --- outcomes and entries ---------------------------------------------------------------------------------------------


def test_it_finds_the_entry_whose_push_was_lost(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.finish(steps.begin(joined), value="done")
    assert value(steps.look(joined.token)) == "done"


def test_it_finds_an_outcome_that_was_not_kept_under_its_token(steps: Steps) -> None:
    joined = steps.joined("a")
    assert steps.finish(steps.begin(joined), value="told", expiry_ms=0).code is Finish.TOLD
    assert value(steps.look(joined.token)) == "told"


def test_an_outcome_that_was_not_kept_answers_nobody_who_did_not_join_its_flight(steps: Steps) -> None:
    steps.finish(steps.begin(steps.joined("a")), expiry_ms=0)
    reply = steps.look("another", "b")
    assert isinstance(reply, Joined)
    assert reply.led


def test_an_outcome_that_was_not_kept_is_found_under_a_replaced_token(steps: Steps) -> None:
    old = steps.joined("a")
    steps.purge()
    new = steps.joined("b")
    steps.finish(steps.begin(new), value="told", expiry_ms=0)
    assert value(steps.look(old.token, "a")) == "told"
    assert value(steps.look(f"earlier,{new.token}", "b")) == "told"


def test_an_outcome_under_its_token_goes_before_the_entry(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.finish(steps.begin(joined), value="told", expiry_ms=0)
    steps.compute("b", "kept later")
    assert value(steps.look(joined.token)) == "told"


def test_a_refresh_is_not_answered_by_the_entry_that_it_refreshes(steps: Steps) -> None:
    old = steps.compute(value="old")
    refresh = steps.joined("a", refresh=True)
    reply = steps.look(refresh.token, not_before=refresh.order, refresh=True)
    assert isinstance(reply, Joined)
    assert reply.token == refresh.token
    steps.finish(steps.begin(refresh), value="new")
    assert value(steps.look(refresh.token, not_before=refresh.order, refresh=True)) == "new"
    assert value(steps.look(refresh.token, not_before=old.order)) == "new"


def test_an_entry_of_an_older_generation_does_not_answer(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.finish(steps.begin(joined))
    steps.purge()
    reply = steps.look(joined.token)
    assert isinstance(reply, Joined)
    assert reply.led


# --- joining again ----------------------------------------------------------------------------------------------------


def test_it_renews_the_waiter(steps: Steps) -> None:
    joined = steps.joined("a", serial=1)
    steps.write(**{"w:a": "1:1"})
    steps.look(joined.token, "a", serial=2)
    serial, until = steps.flight()["w:a"].split(":")
    assert serial == "2"
    assert int(until) > steps.now_ms()


def test_it_opens_a_flight_if_its_own_was_evicted(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.redis.delete(steps.space.flight(steps.key))
    reply = steps.look(joined.token)
    assert isinstance(reply, Joined)
    assert (reply.led, reply.publish) == (True, True)
    assert reply.token != joined.token


def test_it_stays_with_the_flight_it_joined_across_a_purge(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.purge()
    reply = steps.look(joined.token)
    assert isinstance(reply, Joined)
    assert (reply.token, reply.led) == (joined.token, False)


def test_it_opens_a_flight_over_one_of_an_older_generation_that_it_did_not_join(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.purge()
    reply = steps.look("another", "b")
    assert isinstance(reply, Joined)
    assert reply.led
    assert steps.flight()["replaced"] == joined.token


def test_an_attacher_learns_that_nothing_is_known_any_more(steps: Steps) -> None:
    joined = steps.joined("a", serial=1)
    assert isinstance(steps.look(joined.token, "b", may_open=False), Joined)
    steps.redis.delete(steps.space.flight(steps.key))
    assert steps.look(joined.token, "b", may_open=False) == Unknown()
    assert not steps.flight()


# --- taking over ------------------------------------------------------------------------------------------------------


def test_a_live_holder_is_left_alone(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.begin(joined)
    reply = steps.look(joined.token)
    assert isinstance(reply, Joined)
    assert (reply.publish, reply.led) == (False, False)
    assert 0 < reply.wait_ms <= steps.flights.lease_ms
    assert steps.flight()["holder"] == "h1"


def test_a_flight_whose_lease_lapsed_is_taken_over_by_one(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.joined("b")
    steps.begin(joined)
    steps.lapse()
    assert published(steps.look(joined.token, "a"))
    assert not published(steps.look(joined.token, "b"))
    flight = steps.flight()
    assert (flight["state"], flight["holder"], flight["published"]) == ("queued", "", "0")
    assert steps.begin(joined, "h2").code is Begin.RUN


def test_a_look_that_takes_over_publishes_also_when_it_is_sent_again(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.begin(joined)
    steps.lapse()
    call = steps.flights.look(steps.ticket("a"), joined.token, 0, Watermark())
    assert steps.run(call).publish
    assert steps.run(call).publish, "the first reply was lost, so nobody has published"


# --- sending again ----------------------------------------------------------------------------------------------------


def test_a_queued_flight_is_sent_again_after_one_two_four_leases_in_which_nothing_began(steps: Steps) -> None:
    joined = steps.joined("a")
    lease = steps.flights.lease_ms
    for probe, leases in enumerate([1, 2, 4, 8]):
        steps.write(sent=steps.now_ms() - leases * lease + 10_000)
        assert not published(steps.look(joined.token)), f"before {leases} leases"
        steps.write(sent=steps.now_ms() - leases * lease - 1)
        assert published(steps.look(joined.token)), f"after {leases} leases"
        assert not published(steps.look(joined.token)), "whoever sends sets the time in the same step"
        assert steps.flight()["probes"] == str(probe + 1)


def test_a_queued_flight_is_not_sent_again_while_its_queue_moves(steps: Steps) -> None:
    """Something began less than a lease ago: the queue is long, the message is not lost."""
    joined = steps.joined("a")
    sent = steps.now_ms() - 100 * steps.flights.lease_ms
    steps.write(sent=sent)
    moving = Watermark(passed_ms=sent - 1, began_ms=steps.now_ms() - 10)
    assert not published(steps.look(joined.token, watermark=moving))


def test_a_queued_flight_is_sent_again_once_its_queue_has_passed_it_by_a_lease(steps: Steps) -> None:
    joined = steps.joined("a")
    lease = steps.flights.lease_ms
    sent = steps.now_ms() - 10 * lease
    steps.write(sent=sent)
    now = steps.now_ms()
    assert not published(steps.look(joined.token, watermark=Watermark(sent + lease, now)))
    assert published(steps.look(joined.token, watermark=Watermark(sent + lease + 1, now)))
    assert steps.flight()["probes"] == "0", "that the message is lost is known, not guessed"
    assert not published(steps.look(joined.token, watermark=Watermark(sent + lease + 1, now)))


def test_a_waiter_who_raises_the_priority_by_looking_publishes(steps: Steps) -> None:
    joined = steps.joined("a", priority=2)
    assert published(steps.look(joined.token, "b", priority=7))
    assert steps.flight()["priority"] == "7"


def test_the_watermark_rises_and_never_falls(steps: Steps) -> None:
    name = steps.space.watermark("queue", 4)
    before = steps.now_ms()
    for sent, passed in ((123, b"123"), (0, b"123"), (1_700_000_000_123, b"1700000000123")):
        steps.run(steps.flights.raise_watermark("queue", 4, sent))
        assert steps.redis.hget(name, "passed") == passed
    assert int(steps.redis.hget(name, "began") or 0) >= before  # type: ignore[arg-type]


def test_a_sending_time_in_the_future_counts_as_now(steps: Steps) -> None:
    """Whoever reaches the broker can send one; believed, it would have every message of the queue sent again."""
    steps.run(steps.flights.raise_watermark("queue", 4, steps.now_ms() + 10_000_000))
    passed: Any = steps.redis.hget(steps.space.watermark("queue", 4), "passed")
    assert int(passed) <= steps.now_ms()


def test_a_detached_submission_stays_detached_when_it_looks(steps: Steps) -> None:
    joined = steps.joined("a", Kind.DETACHED, serial=1)
    steps.look(joined.token, "a", Kind.DETACHED, serial=2)
    assert steps.flight()["d:a"] == "2:0"
