"""begin, renew and give_up: deadlines, deaths, evicted flights, and leases that end early or late."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from foreseen.flights import Hit, Joined, Kind
from foreseen.holding import Alone, Begin, Begun, Finish

if TYPE_CHECKING:
    from conftest import Steps

DETACHED = Kind.DETACHED


# --- deadlines, attempts, suspects ------------------------------------------------------------------------------------


def test_a_deadline_that_passed_is_to_be_finished_as_a_failure(steps: Steps) -> None:
    joined = steps.joined("a", deadline_ms=1000)
    steps.write(deadline=1)
    begun = steps.begin(joined)
    assert begun.code is Begin.EXPIRED
    assert steps.finish(begun, success=False, expiry_ms=0).code is Finish.TOLD


def test_a_detached_submission_is_told_that_its_deadline_passed(steps: Steps) -> None:
    """It counts only until its deadline, but whoever holds its future is to hear of it, and not to ask for ever."""
    inbox = steps.inbox("a")
    joined = steps.joined("a", DETACHED, deadline_ms=1000, serial=1)
    steps.write(**{"deadline": 1, "d:a": "1:1"})
    begun = steps.begin(joined)
    assert begun.code is Begin.EXPIRED
    steps.finish(begun, success=False, expiry_ms=0)
    assert inbox.push().tokens == (joined.token,)


def test_a_later_deadline_of_another_joiner_counts(steps: Steps) -> None:
    joined = steps.joined("a", deadline_ms=1)
    steps.joined("b", deadline_ms=600_000)
    assert steps.begin(joined).code is Begin.RUN


def test_who_joins_after_a_deadline_was_judged_does_not_share_that_failure(steps: Steps) -> None:
    """The failure is told only when the rest of its batch is computed; until then others may ask, without deadline."""
    early, late = steps.inbox("a"), steps.inbox("b")
    joined = steps.joined("a", deadline_ms=1000)
    steps.write(deadline=1)
    expired = steps.begin(joined)
    assert expired.code is Begin.EXPIRED
    second = steps.joined("b")
    assert second.led
    steps.finish(expired, success=False, expiry_ms=0)
    assert not late.pushes()
    steps.finish(steps.begin(second, "h2"), "h2", value="computed")
    assert second.token in late.push().tokens
    assert joined.token in early.push().tokens


def test_a_begin_sent_twice_says_again_that_the_deadline_passed(steps: Steps) -> None:
    joined = steps.joined("a", deadline_ms=1000)
    steps.write(deadline=1)
    call = steps.begin_call(joined)
    assert steps.run(call).code is Begin.EXPIRED
    assert steps.run(call).code is Begin.EXPIRED


def test_a_key_whose_process_died_too_often_is_not_tried_again(steps: Steps) -> None:
    joined = steps.joined("a")
    for attempt in range(steps.settings.max_attempts):
        assert steps.begin(joined, f"h{attempt}").code is Begin.RUN
        assert steps.give_up(f"h{attempt}", died=True)
    begun = steps.begin(joined, "last")
    assert begun.code is Begin.EXHAUSTED
    assert (begun.deaths, begun.last_death) == (steps.settings.max_attempts, "signal 9")
    assert steps.finish(begun, "last", success=False).code is Finish.KEPT


def test_a_begin_sent_twice_says_again_that_it_was_tried_too_often(steps: Steps) -> None:
    """Else a lost reply would let the input kill one process more."""
    joined = steps.joined("a")
    steps.redis.hset(steps.space.deaths(steps.key), "count", str(steps.settings.max_attempts))
    steps.redis.pexpire(steps.space.deaths(steps.key), 60_000)
    call = steps.begin_call(joined)
    assert steps.run(call).code is Begin.EXHAUSTED
    assert steps.run(call).code is Begin.EXHAUSTED


def test_a_success_forgets_the_attempts(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.begin(joined, "h1")
    steps.give_up("h1", died=True)
    steps.finish(steps.begin(joined, "h2"), "h2")
    assert not steps.redis.exists(steps.space.deaths(steps.key))


def test_attempts_outlive_the_flight_and_the_failure(steps: Steps) -> None:
    joined = steps.joined("a")
    for attempt in range(steps.settings.max_attempts):
        steps.begin(joined, f"h{attempt}")
        steps.give_up(f"h{attempt}", died=True)
    steps.finish(steps.begin(joined, "last"), "last", success=False, expiry_ms=0)
    assert steps.begin(steps.joined("b"), "h9").code is Begin.EXHAUSTED


def test_a_death_in_company_makes_a_suspect_that_runs_alone(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.begin(joined, "h1", alone=Alone.NO)
    assert steps.give_up("h1", died=True)
    assert not steps.redis.exists(steps.space.deaths(steps.key))
    assert steps.begin(joined, "h2", alone=Alone.NO).code is Begin.ALONE
    assert steps.flight()["state"] == "queued"
    assert steps.begin(joined, "h3", "m2", alone=Alone.IN_PROCESS).code is Begin.RUN


def test_a_suspect_stays_one_when_another_flight_takes_over(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.begin(joined, "h1", alone=Alone.NO)
    steps.give_up("h1", died=True)
    steps.purge()
    steps.joined("b")
    assert steps.begin(joined, "h2", alone=Alone.NO).code is Begin.ALONE


# --- workers that end as a whole --------------------------------------------------------------------------------------


def take_over(steps: Steps, joined: Joined, by: str) -> Begun:
    """Have a waiter, or another delivery, find that the holder is silent; return what the next begin says."""
    steps.lapse()
    if by == "look":
        steps.look(joined.token)
    return steps.begin(joined, "next", "m2", alone=Alone.IN_PROCESS)


@pytest.mark.parametrize("by", ["look", "begin"])
def test_a_worker_that_ended_makes_a_suspect_that_runs_alone_in_its_worker(steps: Steps, by: str) -> None:
    """Its other processes and threads ended too: nobody can tell whose input it was."""
    joined = steps.joined("a")
    steps.begin(joined, "h1", worker="nobody listens")
    assert take_over(steps, joined, by).code is Begin.ISOLATE
    assert steps.begin(joined, "h2", "m2", alone=Alone.NO).code is Begin.ALONE
    assert not steps.redis.exists(steps.space.deaths(steps.key))
    assert steps.flight()["state"] == "queued"
    assert steps.begin(joined, "h2", "m2", alone=Alone.IN_WORKER).code is Begin.RUN


@pytest.mark.parametrize("by", ["look", "begin"])
def test_workers_that_end_while_they_compute_nothing_else_count(steps: Steps, by: str) -> None:
    joined = steps.joined("a")
    for attempt in range(steps.settings.max_attempts):
        begun = steps.begin(joined, f"h{attempt}", f"m{attempt}", alone=Alone.IN_WORKER, worker="nobody listens")
        assert begun.code is Begin.RUN
        steps.lapse()
        if by == "look":
            steps.look(joined.token)
    begun = steps.begin(joined, "last", "m9", alone=Alone.IN_WORKER)
    assert begun.code is Begin.EXHAUSTED
    assert (begun.deaths, begun.last_death) == (steps.settings.max_attempts, "its worker ended")


@pytest.mark.parametrize("by", ["look", "begin"])
def test_a_worker_that_is_silent_and_lives_counts_for_nothing(steps: Steps, by: str) -> None:
    """It was stopped, or its model does not let go of the interpreter for longer than a lease."""
    channel = steps.space.worker("w1")
    steps.inbox(channel)
    joined = steps.joined("a")
    for attempt in range(steps.settings.max_attempts + 1):
        assert steps.begin(joined, f"h{attempt}", alone=Alone.IN_WORKER, worker=channel).code is Begin.RUN
        assert take_over(steps, joined, by).code is Begin.RUN
        steps.give_up("next", died=False)
    assert not steps.redis.exists(steps.space.deaths(steps.key))


@pytest.mark.parametrize("by", ["look", "begin"])
def test_a_worker_that_is_heard_again_did_not_end(steps: Steps, by: str) -> None:
    """After a failover, or a restart of the server, it was looked for before it had subscribed anew."""
    channel = steps.space.worker("w1")
    joined = steps.joined("a")
    steps.begin(joined, "h1", alone=Alone.NO, worker=channel)
    assert take_over(steps, joined, by).code is Begin.ISOLATE
    steps.inbox(channel)
    assert steps.begin(joined, "h2", "m2", alone=Alone.NO).code is Begin.ALONE, "a process may have died of it before"
    assert steps.begin(joined, "h2", "m2", alone=Alone.IN_PROCESS, worker="another").code is Begin.RUN


def test_that_another_worker_lives_says_nothing_of_the_one_that_ended(steps: Steps) -> None:
    other = steps.space.worker("w2")
    steps.inbox(other)
    joined = steps.joined("a")
    steps.begin(joined, "h1", alone=Alone.NO, worker="nobody listens")
    take_over(steps, joined, "begin")
    assert steps.begin(joined, "h2", "m2", alone=Alone.IN_WORKER, worker=other).code is Begin.RUN
    steps.give_up("h2", died=False)
    assert steps.begin(joined, "h3", "m3", alone=Alone.IN_PROCESS).code is Begin.ISOLATE


def test_a_worker_that_does_not_say_where_it_listens_counts_for_nothing(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.begin(joined, "h1", alone=Alone.IN_WORKER)
    assert take_over(steps, joined, "look").code is Begin.RUN
    assert not steps.redis.exists(steps.space.deaths(steps.key))


@pytest.mark.parametrize("by", ["look", "begin"])
def test_a_worker_that_ended_while_it_waited_for_others_counts_for_nothing(steps: Steps, by: str) -> None:
    joined = steps.joined("a")
    for attempt in range(steps.settings.max_attempts + 1):
        holder = f"h{attempt}"
        assert steps.begin(joined, holder, alone=Alone.IN_WORKER, worker="nobody listens").code is Begin.RUN
        assert steps.run(steps.flights.renew(steps.key, holder, waits=True))
        steps.lapse()
        if by == "look":
            steps.look(joined.token)
    begun = steps.begin(joined, "next", "m2", alone=Alone.NO, worker="nobody listens")
    assert begun.code is Begin.RUN
    assert steps.flight()["worker"] == "nobody listens"  # which it is again, once it computes
    assert not steps.redis.exists(steps.space.deaths(steps.key))


def test_a_process_that_died_makes_no_less_of_a_suspect(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.begin(joined, "h1", alone=Alone.NO, worker="nobody listens")
    take_over(steps, joined, "look")
    steps.write(state="running", holder="h2", alone="0", lease=steps.now_ms() + 60_000)
    steps.give_up("h2")
    assert steps.begin(joined, "h3", "m3").code is Begin.ISOLATE


# --- evicted flights --------------------------------------------------------------------------------------------------


def test_an_evicted_flight_is_opened_again_from_its_message(steps: Steps) -> None:
    joined = steps.joined("a", DETACHED, deadline_ms=600_000, priority=7)
    steps.redis.delete(steps.space.flight(steps.key))
    begun = steps.begin(joined)
    assert (begun.code, begun.token) == (Begin.RUN, joined.token)
    flight = steps.flight()
    assert (flight["priority"], flight["deadline"]) == ("7", str(joined.deadline_ms))
    assert steps.finish(begun).code is Finish.KEPT


def test_what_was_evicted_and_is_past_its_deadline_is_not_computed(
    steps: Steps, passes: Callable[[Steps, int], None]
) -> None:
    joined = steps.joined("a", DETACHED, deadline_ms=1)
    steps.redis.delete(steps.space.flight(steps.key))
    passes(steps, joined.deadline_ms)
    assert steps.begin(joined).code is Begin.EXPIRED


def test_who_gave_up_another_flight_does_not_undo_a_detached_submission_whose_flight_was_evicted(steps: Steps) -> None:
    """The flight that nobody wants is not the one that the message was sent for."""
    detached = steps.joined("a", DETACHED)
    steps.redis.delete(steps.space.flight(steps.key))
    waiter = steps.joined("b", serial=1)
    assert waiter.led
    steps.write(**{"w:b": "1:1"})
    begun = steps.begin(detached)
    assert (begun.code, begun.token) == (Begin.RUN, detached.token)
    assert steps.marked(waiter.token)
    assert steps.finish(begun).code is Finish.KEPT


def test_evicted_end_marks_cost_a_computation_and_nothing_else(steps: Steps) -> None:
    joined = steps.joined("a", serial=1)
    steps.leave("a", 1)
    steps.redis.delete(steps.space.ends(steps.key))
    begun = steps.begin(joined)
    assert begun.code is Begin.RUN
    assert steps.finish(begun).code is Finish.KEPT
    assert isinstance(steps.join("b"), Hit)


# --- renew and give_up ------------------------------------------------------------------------------------------------


def test_the_holder_renews_its_lease(steps: Steps) -> None:
    steps.begin(steps.joined("a"), "h1")
    steps.write(lease=steps.now_ms() + 5)
    assert steps.run(steps.flights.renew(steps.key, "h1"))
    assert int(steps.flight()["lease"]) > steps.now_ms() + steps.flights.lease_ms // 2


def test_nobody_else_renews_it(steps: Steps) -> None:
    steps.begin(steps.joined("a"), "h1")
    steps.lapse()
    assert not steps.run(steps.flights.renew(steps.key, "h2"))
    assert steps.flight()["lease"] == "1"


def test_a_holder_that_was_taken_over_renews_nothing(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.begin(joined, "h1")
    steps.lapse()
    steps.look(joined.token)
    assert not steps.run(steps.flights.renew(steps.key, "h1"))
    steps.begin(joined, "h2")
    assert not steps.run(steps.flights.renew(steps.key, "h1"))


def test_renewing_what_is_over_brings_nothing_back(steps: Steps) -> None:
    assert not steps.run(steps.flights.renew(steps.key, "h1"))
    assert not steps.flight()


@pytest.mark.parametrize("died", [True, False])
def test_what_was_given_up_can_begin_at_once(steps: Steps, died: bool) -> None:
    joined = steps.joined("a")
    steps.begin(joined, "h1")
    assert steps.give_up("h1", died=died)
    assert steps.redis.exists(steps.space.deaths(steps.key)) == died
    assert steps.begin(joined, "h2").code is Begin.RUN


def test_only_the_current_holder_gives_up(steps: Steps) -> None:
    joined = steps.joined("a")
    steps.begin(joined, "h1")
    steps.lapse()
    steps.begin(joined, "h2")
    assert not steps.give_up("h1")
    assert steps.flight()["holder"] == "h2"
    assert not steps.redis.exists(steps.space.deaths(steps.key))


def test_a_give_up_sent_twice_counts_one_attempt(steps: Steps) -> None:
    steps.begin(steps.joined("a"), "h1")
    assert steps.give_up("h1")
    assert not steps.give_up("h1")
    assert steps.redis.hgetall(steps.space.deaths(steps.key)) == {b"count": b"1", b"last": b"signal 9"}


def test_giving_up_what_is_over_brings_nothing_back(steps: Steps) -> None:
    assert not steps.give_up("h1")
    assert not steps.flight()
