"""An entry that is due to be refreshed: it answers, and of all who meet it one has it computed again."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

import pytest

from foreseen.entry import Entry, Refreshing
from foreseen.flights import Due, Hit, Joined, Kind
from foreseen.holding import Begin, Finish

if TYPE_CHECKING:
    from conftest import Steps

#: Where the entry says until when it is fresh, counted from 0.
FRESH_UNTIL = 27
STALE = {"expiry_ms": 3_600_000, "stale_ms": 3_600_000}


def keep(steps: Steps, value: str = "old", **options: int) -> Entry:
    """Keep an entry that is refreshed."""
    steps.finish(steps.begin(steps.joined("z")), value=value, **(STALE | options))
    entry = steps.entry()
    assert entry is not None
    return entry


def age(steps: Steps) -> None:
    """Let its fresh life have just ended."""
    left_ms = steps.redis.pttl(steps.space.entry(steps.key))
    steps.redis.setrange(steps.space.entry(steps.key), FRESH_UNTIL, struct.pack(">Q", steps.now_ms() - 1))  # type: ignore[arg-type]
    assert abs(steps.redis.pttl(steps.space.entry(steps.key)) - left_ms) < 1000  # type: ignore[operator]


def due(steps: Steps, **options: object) -> Due:
    reply = steps.join(**options)
    assert isinstance(reply, Due), reply
    return reply


def refresh_of(reply: Due) -> Joined:
    assert reply.refresh is not None
    return reply.refresh


def value_of(data: bytes | Entry | None) -> object:
    assert data is not None
    outcome = (data if isinstance(data, Entry) else Entry.decode(data)).outcome()
    return getattr(outcome, "value", outcome)


def test_it_is_kept_for_its_fresh_life_and_as_long_as_it_may_be_stale(steps: Steps) -> None:
    entry = keep(steps, expiry_ms=1_000_000, stale_ms=500_000, early_ms=250)
    assert entry.refreshing == Refreshing(250, 0)
    assert entry.fresh_until_ms - entry.written_ms == 1_000_000
    assert 1_490_000 < steps.redis.pttl(steps.space.entry(steps.key)) <= 1_500_000  # type: ignore[operator]


def test_while_it_is_fresh_it_is_a_hit_like_any_other(steps: Steps) -> None:
    keep(steps)
    assert isinstance(steps.join(), Hit)
    assert steps.flight() == {}


def test_past_its_fresh_life_it_answers_and_one_of_all_who_ask_has_it_computed(steps: Steps) -> None:
    keep(steps)
    age(steps)
    first, *others = [due(steps, inbox=inbox) for inbox in "abcd"]
    assert {value_of(reply.entry) for reply in (first, *others)} == {"old"}
    assert all(reply.stale for reply in (first, *others))
    assert refresh_of(first).publish
    assert [reply.refresh for reply in others] == [None] * 3
    assert (steps.statistic("stale"), steps.statistic("refreshed")) == (4, 1)


def test_what_is_computed_takes_its_place(steps: Steps) -> None:
    keep(steps)
    age(steps)
    begun = steps.begin(refresh_of(due(steps)), "h2", "m2")
    assert begun.code is Begin.RUN, "nobody waits, and it is wanted all the same"
    assert steps.finish(begun, "h2", "m2", value="new", **STALE).code is Finish.KEPT
    reply = steps.join()
    assert isinstance(reply, Hit)
    assert value_of(reply.entry) == "new"


def test_it_comes_after_everything_else_and_who_needs_it_sooner_is_not_held_back(steps: Steps) -> None:
    keep(steps)
    age(steps)
    assert refresh_of(due(steps)).priority == 0
    steps.redis.delete(steps.space.entry(steps.key))  # its stale life has ended, too
    joined = steps.joined("a", priority=4)
    assert (joined.led, joined.publish, joined.priority) == (False, True, 4)


def test_one_that_fails_leaves_it_and_the_next_is_not_tried_at_once(steps: Steps) -> None:
    keep(steps)
    age(steps)
    begun = steps.begin(refresh_of(due(steps)), "h2", "m2")
    assert steps.finish(begun, "h2", "m2", success=False, expiry_ms=60_000).code is Finish.TOLD
    reply = due(steps)
    assert (value_of(reply.entry), reply.stale, reply.refresh) == ("old", True, None)
    held = Entry.decode(reply.entry)
    assert held.refreshing is not None
    assert 59_000 < held.refreshing.held_until_ms - steps.now_ms() <= 60_000
    assert steps.redis.pttl(steps.space.entry(steps.key)) > 7_000_000  # type: ignore[operator]
    steps.redis.setrange(steps.space.entry(steps.key), 43, struct.pack(">Q", steps.now_ms() - 1))
    assert refresh_of(due(steps)).publish


@pytest.mark.parametrize(("drawn", "is_due"), [(0.05, True), (0.30, True), (0.45, False), (0.95, False)])
def test_it_may_be_refreshed_before_it_is_stale_by_the_rule_of_xfetch(steps: Steps, drawn: float, is_due: bool) -> None:
    """Of a number drawn from 0 to 1: due if `-early x log(drawn)` reaches to the end of its fresh life."""
    keep(steps, expiry_ms=1_000_000, stale_ms=0, early_ms=1_000_000)
    assert math.exp(-1) == pytest.approx(0.37, abs=0.01), "the chance at its very beginning"
    call = steps.flights.join(steps.ticket())
    call = call._replace(args=(*call.args[:3], f"{int(drawn * 2**32):08x}" + "0" * 8, *call.args[4:]))
    reply = steps.run(call)
    if is_due:
        assert isinstance(reply, Due)
        assert not reply.stale
        assert refresh_of(reply).publish
    else:
        assert isinstance(reply, Hit)


def test_how_early_grows_with_what_it_costs(steps: Steps) -> None:
    keep(steps, expiry_ms=1_000_000, stale_ms=0, early_ms=1)
    assert all(isinstance(steps.join(), Hit) for _ in range(100))


def test_a_message_that_is_lost_is_sent_again_by_who_meets_it_and_ever_more_rarely(steps: Steps) -> None:
    lease_ms = steps.flights.lease_ms
    keep(steps)
    age(steps)
    refresh_of(due(steps))
    for leases in (1, 2, 4):
        steps.write(sent=steps.now_ms() - leases * lease_ms + 5_000)
        assert due(steps).refresh is None
        steps.write(sent=steps.now_ms() - leases * lease_ms)
        assert refresh_of(due(steps)).publish
        assert due(steps).refresh is None


def test_a_call_that_is_sent_twice_is_told_the_same_twice(steps: Steps) -> None:
    keep(steps)
    age(steps)
    call = steps.flights.join(steps.ticket())
    first, again = steps.run(call), steps.run(call)
    assert refresh_of(first).token == refresh_of(again).token


def test_who_may_only_attach_has_nothing_computed(steps: Steps) -> None:
    keep(steps)
    age(steps)
    assert due(steps, may_open=False).refresh is None
    assert steps.flight() == {}


def test_who_wants_it_anew_waits_for_the_refresh_under_way(steps: Steps) -> None:
    keep(steps)
    age(steps)
    refresh = refresh_of(due(steps))
    joined = steps.joined("a", Kind.DETACHED, refresh=True)
    assert (joined.led, joined.token) == (False, refresh.token)


def test_an_invalidation_and_a_purge_end_it_as_any_other(steps: Steps) -> None:
    for forget in (steps.invalidate, steps.purge):
        keep(steps)
        age(steps)
        forget()
        joined = steps.joined("a")
        assert joined.led
        steps.finish(steps.begin(joined), value="old")
        steps.redis.delete(steps.space.entry(steps.key))


def test_a_refresh_that_began_before_an_invalidation_is_not_kept(steps: Steps) -> None:
    keep(steps)
    age(steps)
    begun = steps.begin(refresh_of(due(steps)), "h2", "m2")
    steps.invalidate()
    assert steps.finish(begun, "h2", "m2", value="new", **STALE).code is not Finish.KEPT
    assert steps.entry() is None


@pytest.mark.parametrize("size", [1, 39, 43, 51])
def test_a_torn_one_is_no_hit(steps: Steps, size: int) -> None:
    entry = keep(steps)
    steps.redis.set(steps.space.entry(steps.key), entry.encode()[:size], keepttl=True)
    reply = steps.join()
    assert isinstance(reply, Joined) or (isinstance(reply, Hit) and size > 51)
