"""finish: what is kept, who is told, and what no longer counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from foreseen.compression import deflate
from foreseen.entry import Entry, encode_body
from foreseen.entry import Kind as EntryKind
from foreseen.flights import Hit, Joined, Kind, nonce
from foreseen.holding import Begin, Finish
from foreseen.payload import pack

if TYPE_CHECKING:
    from conftest import Steps

DETACHED = Kind.DETACHED
LIMIT = 64 * 1024


def value_of(entry: Entry | bytes | None) -> object:
    """Return what an entry holds."""
    assert entry is not None
    outcome = (entry if isinstance(entry, Entry) else Entry.decode(entry)).outcome()
    return getattr(outcome, "value", outcome)


# --- kept and told ----------------------------------------------------------------------------------------------------


def test_a_success_becomes_the_entry_and_ends_the_flight(steps: Steps) -> None:
    joined = steps.joined("a")
    begun = steps.begin(joined)
    before = steps.now_ms()
    assert steps.finish(begun, value="done", expiry_ms=60_000, cost_us=1234).code is Finish.KEPT
    assert not steps.flight()
    entry = steps.entry()
    assert entry is not None
    assert (value_of(entry), entry.kind, entry.cost_us) == ("done", EntryKind.RESULT, 1234)
    assert (entry.generation, entry.order) == (begun.generation, begun.order)
    assert before <= entry.written_ms <= steps.now_ms()
    assert entry.fresh_until_ms == entry.written_ms + 60_000
    assert 0 < int(steps.redis.pttl(steps.space.entry(steps.key))) <= 60_000  # type: ignore[arg-type]


@pytest.mark.parametrize("stale_ms", [0, 1000])
def test_a_compressed_result_is_kept_and_pushed_as_it_came(steps: Steps, stale_ms: int) -> None:
    inbox = steps.inbox("a")
    small = deflate(pack(["the same"] * 1000))
    assert small is not None
    steps.finish(steps.begin(steps.joined("a")), body=encode_body(small), codec=2, stale_ms=stale_ms)
    entry = steps.entry()
    assert entry is not None
    assert (entry.codec, entry.payload) == (2, small)
    assert value_of(entry.plain(10**5)) == ["the same"] * 1000
    assert Entry.decode(inbox.push().entry) == entry
    assert isinstance(steps.join("b"), Hit)


def test_everyone_who_joined_is_told_the_same_bytes_once(steps: Steps) -> None:
    inboxes = [steps.inbox(name) for name in "abc"]
    joined = steps.joined("a")
    steps.joined("a", DETACHED)
    steps.joined("b", DETACHED)
    steps.joined("c")
    steps.finish(steps.begin(joined), value="done")
    pushes = [inbox.push() for inbox in inboxes]
    hit = steps.join("d")
    assert isinstance(hit, Hit)
    for push in pushes:
        assert push.key == str(steps.key)
        assert push.tokens == (joined.token,)
        assert push.entry == hit.entry


def test_a_push_names_the_tokens_that_the_flight_replaced(steps: Steps) -> None:
    inbox = steps.inbox("a")
    tokens = [steps.joined("a").token]
    for name in "bc":
        steps.purge()
        tokens.append(steps.joined(name).token)
    steps.finish(steps.begin(steps.joined("c")))
    assert set(inbox.push().tokens) == set(tokens)


@pytest.mark.parametrize(("payload_bytes", "travels"), [(LIMIT - 43, True), (LIMIT - 42, False)])
def test_above_64_kib_only_the_name_is_pushed(steps: Steps, payload_bytes: int, travels: bool) -> None:
    inbox = steps.inbox("a")
    joined = steps.joined("a")
    steps.finish(steps.begin(joined), body=encode_body(bytes(payload_bytes)))
    push = inbox.push()
    assert push.tokens == (joined.token,)
    assert len(push.entry) == (LIMIT if travels else 0)
    reply = steps.look(joined.token)
    assert isinstance(reply, Hit)
    assert len(reply.entry) == payload_bytes + 43


def test_a_result_that_is_not_to_be_kept_is_told_and_readable_for_those_who_joined(steps: Steps) -> None:
    inbox = steps.inbox("a")
    joined = steps.joined("a")
    assert steps.finish(steps.begin(joined), value="told", expiry_ms=0).code is Finish.TOLD
    assert value_of(inbox.push().entry) == "told"
    assert steps.entry() is None
    assert steps.marked(joined.token)
    assert 0 < int(steps.redis.pttl(steps.space.outcomes(steps.key))) <= steps.flights.outcome_ms  # type: ignore[arg-type]
    assert (steps.statistic("computed"), steps.statistic("unkept")) == (1, 1)


def test_what_is_kept_and_a_failure_that_is_not_are_not_counted_as_unkept(steps: Steps) -> None:
    steps.finish(steps.begin(steps.joined("a")), success=False, expiry_ms=0)
    steps.finish(steps.begin(steps.joined("a")), value="kept")
    assert (steps.statistic("failed"), steps.statistic("computed"), steps.statistic("unkept")) == (1, 1, 0)


@pytest.mark.parametrize(
    ("digits", "outcomes_stay", "marks_stay"), [("00", False, False), ("0f", False, True), ("10", True, True)]
)
def test_outcomes_that_nobody_can_read_any_more_are_dropped_now_and_then(
    steps: Steps, digits: str, *, outcomes_stay: bool, marks_stay: bool
) -> None:
    """By one flight of 16, and their end marks by one of 64: its token's first digits are drawn by chance."""
    outcomes, ends = steps.space.outcomes(steps.key), steps.space.ends(steps.key)
    for name in (outcomes, ends):
        steps.redis.hset(name, mapping={"old": "1:gone", "new": f"{steps.now_ms() + 60_000}:not yet"})
        steps.redis.pexpire(name, 60_000)
    joined = steps.joined("a", token=digits + nonce()[2:])
    steps.finish(steps.begin(joined), expiry_ms=0)
    own = {joined.token.encode(), b"new"}
    assert set(steps.redis.hkeys(outcomes)) == (own | {b"old"} if outcomes_stay else own)
    assert set(steps.redis.hkeys(ends)) == (own | {b"old"} if marks_stay else own)


def test_a_failure_is_kept_under_its_own_expiry_and_answers_until_then(steps: Steps) -> None:
    inbox = steps.inbox("a")
    joined = steps.joined("a")
    assert steps.finish(steps.begin(joined), success=False, expiry_ms=5_000).code is Finish.KEPT
    push = inbox.push()
    assert Entry.decode(push.entry).kind is EntryKind.FAILURE
    assert steps.join("b") == Hit(push.entry)
    assert 0 < int(steps.redis.pttl(steps.space.entry(steps.key))) <= 5_000  # type: ignore[arg-type]
    assert steps.marked(joined.token), "the failure is forgotten before a redelivery of its message is"


def test_a_failed_refresh_is_told_and_leaves_the_result(steps: Steps) -> None:
    inbox = steps.inbox("a")
    steps.compute(value="good")
    refresh = steps.joined("a", refresh=True)
    assert steps.finish(steps.begin(refresh), success=False).code is Finish.TOLD
    assert Entry.decode(inbox.push().entry).kind is EntryKind.FAILURE
    assert value_of(steps.entry()) == "good"


def test_a_success_replaces_a_failure(steps: Steps) -> None:
    steps.finish(steps.begin(steps.joined("a")), success=False)
    refresh = steps.joined("a", refresh=True)
    assert steps.finish(steps.begin(refresh), value="better").code is Finish.KEPT
    assert value_of(steps.entry()) == "better"


# --- holders ----------------------------------------------------------------------------------------------------------


def test_a_stopped_holder_that_continues_fails_nothing_that_another_computes(steps: Steps) -> None:
    inbox = steps.inbox("a")
    joined = steps.joined("a")
    stopped = steps.begin(joined, "h1")
    steps.lapse()
    steps.begin(joined, "h2")
    late = steps.finish(stopped, "h1", success=False)
    assert late.code is Finish.HELD
    assert 0 < late.lease_left_ms <= steps.flights.lease_ms
    assert not inbox.pushes()
    assert steps.flight()["holder"] == "h2"


def test_of_deliveries_that_finish_beside_a_live_holder_only_the_latest_copy_makes_another(steps: Steps) -> None:
    joined = steps.joined("a")
    stopped = steps.begin(joined, "h1", "m1")
    steps.lapse()
    steps.begin(joined, "h2", "m2")
    steps.write(copy="c1", copies="1")
    assert steps.finish(stopped, "h1", "m1", success=False).code is Finish.SETTLED
    assert steps.finish(stopped, "h1", "c1", success=False, copies=1).code is Finish.HELD


def test_a_stopped_holder_that_continues_with_a_success_is_the_first(steps: Steps) -> None:
    inbox = steps.inbox("a")
    joined = steps.joined("a")
    stopped = steps.begin(joined, "h1")
    steps.lapse()
    second = steps.begin(joined, "h2")
    assert steps.finish(stopped, "h1", value="first").code is Finish.KEPT
    assert steps.finish(second, "h2", value="second").code is Finish.SETTLED
    assert value_of(steps.entry()) == "first"
    assert value_of(inbox.push().entry) == "first"


def test_a_failure_after_the_flight_ended_changes_nothing(steps: Steps) -> None:
    joined = steps.joined("a")
    stopped = steps.begin(joined, "h1")
    steps.lapse()
    steps.finish(steps.begin(joined, "h2"), "h2", value="good")
    assert steps.finish(stopped, "h1", success=False).code is Finish.SETTLED
    assert value_of(steps.entry()) == "good"


def test_a_failure_of_a_holder_whose_lease_lapsed_counts_until_somebody_takes_over(steps: Steps) -> None:
    begun = steps.begin(steps.joined("a"), "h1")
    steps.lapse()
    assert steps.finish(begun, "h1", success=False).code is Finish.KEPT


def test_a_failure_of_a_flight_that_was_taken_over_and_has_no_message_yet_sends_its_own_again(steps: Steps) -> None:
    joined = steps.joined("a")
    begun = steps.begin(joined, "h1")
    steps.lapse()
    steps.look(joined.token)
    assert steps.finish(begun, "h1", success=False).code is Finish.RESEND
    steps.run(steps.flights.published(steps.key, joined.token))
    assert steps.finish(begun, "h1", success=False).code is Finish.SETTLED


def test_a_failure_beside_a_second_holder_whose_lease_lapsed_too_sends_its_message_again(steps: Steps) -> None:
    joined = steps.joined("a")
    begun = steps.begin(joined, "h1")
    steps.lapse()
    steps.begin(joined, "h2")
    steps.lapse()
    assert steps.finish(begun, "h1", success=False).code is Finish.RESEND


@pytest.mark.parametrize(("success", "expiry_ms"), [(True, 3_600_000), (True, 0), (False, 5_000), (False, 0)])
def test_a_finish_sent_twice_tells_once(steps: Steps, success: bool, expiry_ms: int) -> None:
    inbox = steps.inbox("a")
    call = steps.finish_call(steps.begin(steps.joined("a")), success=success, expiry_ms=expiry_ms)
    assert steps.run(call).code in (Finish.KEPT, Finish.TOLD)
    entry = steps.entry()
    assert steps.run(call).code is Finish.SETTLED
    assert steps.entry() == entry
    inbox.push()


# --- newer flights ----------------------------------------------------------------------------------------------------


def test_a_computation_that_began_before_a_refresh_was_opened_does_not_answer_it(steps: Steps) -> None:
    joined = steps.joined("a")
    stopped = steps.begin(joined, "h1")
    steps.lapse()
    steps.finish(steps.begin(joined, "h2"), "h2", value="second")
    inbox = steps.inbox("b")
    refresh = steps.joined("b", refresh=True)
    assert steps.finish(stopped, "h1", value="first").code is Finish.RESEND
    assert not inbox.pushes()
    assert value_of(steps.entry()) == "second"
    assert steps.flight()["token"] == refresh.token


def test_a_success_without_a_flight_is_kept_unless_there_is_a_result(steps: Steps) -> None:
    begun = steps.begin(steps.joined("a"))
    steps.redis.delete(steps.space.flight(steps.key))
    assert steps.finish(begun, value="mine", expiry_ms=0).code is Finish.SETTLED
    assert steps.finish(begun, value="mine").code is Finish.KEPT
    assert steps.finish(begun, value="other").code is Finish.SETTLED
    assert value_of(steps.entry()) == "mine"


def test_a_failure_without_a_flight_is_owed_to_who_submitted_it_unless_the_flight_ended(steps: Steps) -> None:
    joined = steps.joined("a", DETACHED, serial=1)
    begun = steps.begin(joined, "h1")
    steps.redis.delete(steps.space.flight(steps.key))
    assert steps.finish(begun, success=False).code is Finish.RESEND, "evicted: begin opens it again from the message"
    assert steps.entry() is None
    again = steps.begin(joined, "h2")
    steps.give_up("h2", died=False)
    steps.leave("", 0, DETACHED)
    assert not steps.flight()
    assert steps.finish(again, "h2", success=False).code is Finish.SETTLED


def test_a_success_ends_the_flight_that_was_opened_again_from_its_message(steps: Steps) -> None:
    """The flight was evicted under its holder; whoever joined the one that stands for it is told all the same."""
    joined = steps.joined("a")
    first = steps.begin(joined, "h1")
    steps.redis.delete(steps.space.flight(steps.key))
    steps.begin(joined, "h2", "m2")
    inbox = steps.inbox("b")
    assert steps.joined("b").token == joined.token
    assert steps.finish(first, "h1", value="first").code is Finish.KEPT
    assert inbox.push().tokens == (joined.token,)


def test_statistics_that_were_evicted_come_back_with_an_expiry(steps: Steps) -> None:
    """Told by the fixture, which looks for keys that would stay for ever."""
    begun = steps.begin(steps.joined("a"))
    steps.redis.delete(steps.space.statistics(steps.key))
    steps.finish(begun)
    assert steps.statistic("computed") == 1


def test_an_end_mark_names_every_token_of_the_flight(steps: Steps) -> None:
    old = steps.joined("a")
    steps.purge()
    new = steps.joined("b")
    steps.finish(steps.begin(old), expiry_ms=0)
    for joined in (old, new):
        assert isinstance(joined, Joined)
        assert steps.begin(joined, "h2").code is Begin.SETTLED


def test_a_late_finish_that_meets_another_flight_lets_nothing_rely_on_its_copy(steps: Steps) -> None:
    """The copy is settled by its own flight's end mark: a redelivery that was acked for it would be lost."""
    first = steps.joined("a")
    stopped = steps.begin(first, "h1", "m1")
    steps.lapse()
    steps.finish(steps.begin(first, "h2", "m2"), "h2", "m2", success=False, expiry_ms=0)
    second = steps.joined("b", DETACHED)
    steps.begin(second, "h3", "m3")
    late = steps.finish(stopped, "h1", "m1")
    assert (late.code, late.token) == (Finish.HELD, second.token)
    assert not steps.run(steps.flights.copied(steps.key, late.token, "c1", 1, first.token))
    assert steps.begin(second, "h4", "m3").code is Begin.HELD


def test_a_failure_that_ends_before_a_waiter_looks_again_is_readable_all_the_same(
    steps: Steps, passes: Callable[[Steps, int], None]
) -> None:
    """Its push was lost, and its entry has expired."""
    joined = steps.joined("a")
    assert steps.finish(steps.begin(joined), success=False, expiry_ms=20).code is Finish.KEPT
    passes(steps, steps.now_ms() + 30)
    assert steps.entry() is None
    assert isinstance(steps.look(joined.token), Hit)
