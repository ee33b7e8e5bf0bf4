"""The client's steps, driven by hand: each effect is answered from what a test laid out; nothing is sent anywhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from foreseen.broker import Publisher
from foreseen.canonical import canonicalize
from foreseen.cards import Card
from foreseen.client.asking import CHUNK
from foreseen.client.effects import Ask, Effect, Pause, Read, Send, Steps
from foreseen.client.engine import Engine
from foreseen.client.near import Near
from foreseen.client.shipping import Shipping, outcome_of
from foreseen.client.submission import Source, Submission
from foreseen.client.tally import TALLY_S
from foreseen.entry import Entry, Kind, Refreshing
from foreseen.errors import (
    BrokerUnavailable,
    CacheUnavailable,
    DeadlineExceeded,
    InvalidInput,
    ModelNotServed,
    ProducerClosed,
    QueueFull,
    UnknownKey,
)
from foreseen.flights import Call, Due, Hit, Joined, Unknown
from foreseen.flights import Kind as Who
from foreseen.keys import BUCKETS, Key, key_of, tag_digest
from foreseen.message import Message
from foreseen.outcome import Failure, Outcome, Result
from foreseen.payload import pack
from foreseen.settings import Settings

T = TypeVar("T")

CARD = Card(name="model", version="1", queue="t.model@1", max_batch_size=3, input_schema={"type": "integer"})
NOW_MS = 1_700_000_000_000
MOMENT_S = 0.05  # that a mark waits


def entry(value: Any = "answer", kind: Kind = Kind.RESULT) -> bytes:
    """Return an entry as the cache keeps it."""
    return Entry(kind, b"generatn", 7, NOW_MS, NOW_MS + 1000, 5, pack(value)).encode()


TORN = entry()[:-1] + b"?"


def joined(token: str, **changes: Any) -> Joined:
    """Return the reply to a follower of a flight that runs."""
    fields: dict[str, Any] = {
        "led": False, "publish": False, "order": 5, "wait_ms": 1000, "now_ms": NOW_MS, "deadline_ms": 0, "priority": 4,
    }  # fmt: skip
    return Joined(token=token, **(fields | changes))


def led(token: str, **changes: Any) -> Joined:
    """Return the reply to whoever opened a flight."""
    return joined(token, **({"led": True, "publish": True} | changes))


def registered(call: Call[Any]) -> list[int]:
    """Return the reply to whoever registers keys that are in the index."""
    return [0] * len(str(call.args[1]).split(","))


def refused(_: Call[Any]) -> Any:
    raise CacheUnavailable("away")


def argument(call: Call[Any], name: str) -> Any:
    """Return what a join, look or leave says, by name."""
    places = {
        "join": {"refresh": 0, "token": 3, "inbox": 4, "serial": 5, "kind": 6, "priority": 10},
        "look": {"not_before": 0, "serial": 5, "tokens": 13, "passed": 14, "began": 15},
        "leave": {"inbox": 0, "serial": 1, "kind": 2},
        "published": {"token": 0},
        "tag": {"tag": 0, "keys": 1},
    }  # fmt: skip
    return call.args[places[call.script.name][name]]


class Wire:
    """Answers effects as the servers would.

    Args:
        replies: what joins and looks say, in order; an exception fails the round trip, a function is asked when the
            reply is on its way.
    """

    def __init__(self, *replies: Any) -> None:
        self.replies = deque(replies)
        self.strings: dict[str, bytes] = {"t:card:model@1": CARD.model_dump_json().encode()}
        self.entries: dict[str, bytes] = {}
        self.models: set[bytes] = set()
        self.watermarks: dict[str, list[bytes | None]] = {}
        self.others: dict[str, Any] = {"tag": registered}  # what scripts other than join and look say, or who says it
        self.broker_error: Exception | None = None
        self.cache_error: Exception | None = None
        self.clock: Clock | None = None
        self.effects: list[Effect] = []
        self.removed: list[tuple[str, ...]] = []
        self.sent: list[Message] = []
        self.shipping = Shipping(Settings(namespace="t"), cast("Publisher", self))

    def run(self, steps: Steps[T]) -> T:
        try:
            effect = next(steps)
            while True:
                self.effects.append(effect)
                try:
                    result = self.answer(effect)
                except Exception as error:  # noqa: BLE001 - the steps decide what an error means
                    effect = steps.throw(error)
                else:
                    effect = steps.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def answer(self, effect: Effect) -> Any:
        match effect:
            case Ask(calls):
                if self.cache_error is not None:
                    raise self.cache_error
                return [self.say(call) for call in calls]
            case Read(commands):
                if self.cache_error is not None:
                    raise self.cache_error
                return [self.read(*command) for command in commands]
            case Send():
                if self.broker_error is not None:
                    raise self.broker_error
                (shipped,) = self.shipping.ship([effect])
                return outcome_of(shipped)
            case Pause(seconds):
                assert self.clock is not None, "nothing is to be waited for here"
                self.clock.now += seconds
                return None

    def say(self, call: Call[Any]) -> Any:
        if call.script.name not in ("join", "look"):
            other = self.others.get(call.script.name, True)
            return other(call) if callable(other) else other
        reply = self.replies.popleft()
        if callable(reply):
            reply = reply()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def read(self, verb: str, name: str, *fields: str) -> Any:
        match verb:
            case "GET":
                return self.strings.get(name)
            case "SMEMBERS":
                return self.models
            case "DEL" | "HDEL":
                self.removed.append((name, *fields))
                return 1
            case "MGET":
                return [b"generatn", *map(self.entries.get, fields)]
            case "HMGET":
                return self.watermarks.get(name, [None] * len(fields))
        raise AssertionError(verb)

    def calls(self, script: str) -> list[Call[Any]]:
        """Return what was asked of one script, in order."""
        asked = [call for effect in self.effects if isinstance(effect, Ask) for call in effect.calls]
        return [call for call in asked if call.script.name == script]

    def publish(self, messages: Sequence[Message], bounds: Mapping[str, int]) -> Sequence[Message]:
        self.sent += messages
        return messages[max(0, min(bounds.values(), default=len(messages))) :]

    @property
    def round_trips(self) -> list[list[str]]:
        """The scripts of each round trip."""
        return [[call.script.name for call in effect.calls] for effect in self.effects if isinstance(effect, Ask)]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("catalog", "marks", "publishing", "table", "submission", "tally"):
        monkeypatch.setattr(f"foreseen.client.{module}.time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def engine(clock: Clock) -> Engine:
    del clock  # so that nothing here depends on the real one
    return Engine(Settings(namespace="t", lease_s=10, model_wait_s=1))


def submission(value: Any = 1, kind: Who = Who.WAITER, **options: Any) -> Submission:
    canonical = canonicalize(value)
    return Submission(key_of("model", "1", canonical), canonical, kind, **options)


def attached(value: Any = 1) -> Submission:
    """Return one that was attached by key."""
    return Submission(submission(value).key, None, Who.WAITER)


def in_flight(engine: Engine, one: Submission, flight: str = "flight-1") -> Submission:
    """Let a submission follow a flight that is published."""
    Wire(joined(flight)).run(engine.submit([one]))
    return one


def push(engine: Engine, key: Key, tokens: str, data: bytes) -> None:
    engine.on_push(f"{key} {tokens}\n".encode() + data)


def value_of(one: Submission) -> Any:
    assert isinstance(one.answer, Result)
    return one.answer.value


def listen(engine: Engine, one: Submission) -> list[Any]:
    """Return a list that gets every answer the submission is given."""
    heard: list[Any] = []
    engine.table.watch(one, heard.append)
    return heard


class TestHits:
    def test_answer_in_one_round_trip_and_publish_nothing(self, engine: Engine) -> None:
        one, wire = submission(), Wire(Hit(entry({"label": "cat"})))
        wire.run(engine.submit([one]))
        assert value_of(one) == {"label": "cat"}
        assert (one.source, one.task_id) == (Source.HIT, None)
        assert wire.round_trips == [["join"]]
        assert len(wire.effects) == 1
        assert len(engine.table) == 0

    def test_answer_without_looking_whether_the_input_fits(self, engine: Engine) -> None:
        """That costs more than the look-up; an entry exists only for an input that did."""
        one, wire = submission("no integer"), Wire(Hit(entry("an answer")))
        wire.run(engine.submit([one]))
        assert value_of(one) == "an answer"

    def test_a_cached_failure_is_an_answer(self, engine: Engine) -> None:
        one = submission()
        data = entry({"name": "DeadlineExceeded", "message": "late", "details": {}}, Kind.FAILURE)
        Wire(Hit(data)).run(engine.submit([one]))
        assert isinstance(one.answer, Failure)
        assert type(one.answer.error) is DeadlineExceeded

    def test_none_is_an_answer(self, engine: Engine) -> None:
        one = submission()
        Wire(Hit(entry(None))).run(engine.submit([one]))
        assert one.answer == Result(None)

    def test_an_entry_that_cannot_be_read_is_a_miss(self, engine: Engine) -> None:
        """It joins anew past the entry, is computed, and does not pass for a hit."""
        one, wire = submission(), Wire(Hit(TORN), led("flight-1"))
        wire.run(engine.submit([one]))
        assert one.answer is None
        assert [argument(call, "refresh") for call in wire.calls("join")] == ["0", "1"]
        assert argument(wire.calls("join")[0], "serial") < argument(wire.calls("join")[1], "serial")
        assert [item.token for item in wire.sent[0].items] == ["flight-1"]
        assert (one.source, one.task_id) == (Source.COMPUTED, wire.sent[0].id)

    def test_an_entry_that_cannot_be_read_is_counted(self, engine: Engine, clock: Clock) -> None:
        wire = Wire(Hit(TORN), joined("flight-1"), Hit(TORN), joined("flight-2"))
        wire.run(engine.submit([submission(1)]))
        wire.run(engine.submit([submission(2)]))
        clock.now += TALLY_S
        wire.run(engine.tick())
        (call,) = wire.calls("tally")
        assert call.args[-1] == 2

    def test_an_unreadable_entry_of_one_key_costs_the_others_nothing(self, engine: Engine) -> None:
        torn, fine = submission(1), submission(2)
        wire = Wire(Hit(TORN), Hit(entry("fine")), joined("flight-1"))
        wire.run(engine.submit([torn, fine]))
        assert value_of(fine) == "fine"
        assert wire.round_trips == [["join", "join"], ["join"]]
        assert (torn.answer, torn.source) == (None, Source.COALESCED)


class TestPublishing:
    def test_a_leader_publishes_one_message_with_its_item(self, engine: Engine) -> None:
        one, wire = submission(41), Wire(led("flight-1", order=9, deadline_ms=NOW_MS + 5, priority=7))
        wire.run(engine.submit([one]))
        (message,) = wire.sent
        assert (message.model_id, message.priority, message.sent_ms, message.due_s) == ("model@1", 7, NOW_MS, 0)
        (item,) = message.items
        assert (item.key, item.token, item.opened, item.deadline_ms) == (one.key, "flight-1", 9, NOW_MS + 5)
        assert item.canonical.text == b"41"
        assert (one.source, one.task_id, one.answer) == (Source.COMPUTED, message.id, None)

    def test_the_mark_travels_with_the_next_round_trip_not_in_one_of_its_own(
        self, engine: Engine, clock: Clock
    ) -> None:
        wire = Wire(led("flight-1"), Hit(entry()))
        wire.run(engine.submit([submission(1)]))
        assert wire.round_trips == [["join"]]
        clock.now += MOMENT_S
        wire.run(engine.submit([submission(2)]))
        assert wire.round_trips == [["join"], ["published", "join"]]
        assert argument(wire.calls("published")[0], "token") == "flight-1"

    def test_a_mark_waits_for_a_moment_and_an_outcome_makes_it_needless(self, engine: Engine, clock: Clock) -> None:
        one, wire = submission(), Wire(led("flight-1"))
        wire.run(engine.submit([one]))
        wire.run(engine.tick())
        push(engine, one.key, "flight-1", entry())
        clock.now += MOMENT_S
        wire.run(engine.tick())
        assert wire.round_trips == [["join"]]

    def test_a_tick_sends_marks_that_nothing_took_along_and_else_nothing(self, engine: Engine, clock: Clock) -> None:
        wire = Wire(led("flight-1"))
        wire.run(engine.tick())
        wire.run(engine.submit([submission()]))
        clock.now += MOMENT_S
        wire.run(engine.tick())
        wire.run(engine.tick())
        assert wire.round_trips == [["join"], ["published"]]

    def test_a_follower_who_waits_does_not_publish(self, engine: Engine) -> None:
        one, wire = submission(), Wire(joined("flight-1"))
        wire.run(engine.submit([one]))
        wire.run(engine.tick())
        assert wire.sent == []
        assert wire.round_trips == [["join"]]
        assert (one.source, one.task_id, one.answer) == (Source.COALESCED, None, None)

    def test_a_detached_follower_of_an_unpublished_flight_publishes_it_too(self, engine: Engine, clock: Clock) -> None:
        one, wire = submission(kind=Who.DETACHED), Wire(joined("flight-1", publish=True))
        wire.run(engine.submit([one]))
        clock.now += MOMENT_S
        wire.run(engine.tick())
        assert argument(wire.calls("join")[0], "kind") == "d"
        assert [item.token for item in wire.sent[0].items] == ["flight-1"]
        assert [argument(call, "token") for call in wire.calls("published")] == ["flight-1"]
        assert (one.source, one.task_id) == (Source.COALESCED, wire.sent[0].id)

    def test_who_attached_by_key_has_nothing_to_publish(self, engine: Engine) -> None:
        one, wire = attached(), Wire(joined("flight-1", publish=True))
        wire.run(engine.submit([one]))
        assert wire.calls("join")[0].args[1] == "0"  # may not open
        assert (wire.sent, one.answer) == ([], None)

    def test_misses_travel_in_messages_of_a_batch_each(self, engine: Engine) -> None:
        many = [submission(n) for n in range(7)]
        wire = Wire(*(led(f"flight-{n}", now_ms=NOW_MS + n) for n in range(7)))
        wire.run(engine.submit(many))
        assert [[item.token for item in message.items] for message in wire.sent] == [
            ["flight-0", "flight-1", "flight-2"], ["flight-3", "flight-4", "flight-5"], ["flight-6"],
        ]  # fmt: skip
        assert len([effect for effect in wire.effects if isinstance(effect, Send)]) == 1
        assert {message.sent_ms for message in wire.sent} == {NOW_MS + 6}
        assert [one.task_id for one in many] == [message.id for message in wire.sent for _ in message.items]

    def test_misses_of_several_models_share_a_round_trip_and_no_message(self, engine: Engine) -> None:
        other = CARD.model_copy(update={"name": "other", "queue": "t.other@1"})
        one, two, three = (submission(n) for n in range(3))
        two.key = key_of("other", "1", canonicalize(1))
        wire = Wire(*(led(f"flight-{n}") for n in range(3)))
        wire.strings["t:card:other@1"] = other.model_dump_json().encode()
        wire.run(engine.submit_mixed([one, two, three]))
        assert len(wire.calls("join")) == 3
        assert [(message.model_id, [item.token for item in message.items]) for message in wire.sent] == [
            ("model@1", ["flight-0", "flight-2"]), ("other@1", ["flight-1"]),
        ]  # fmt: skip
        assert len(wire.round_trips) == 1

    def test_what_several_models_cannot_take_is_refused_by_each(self, engine: Engine, clock: Clock) -> None:
        one, two = submission(1), submission(2)
        two.key = key_of("other", "1", canonicalize(2))  # which nobody serves
        wire = Wire(led("flight-1"), led("flight-2"))
        wire.clock = clock
        wire.run(engine.submit_mixed([one, two]))
        assert one.answer is None
        assert isinstance(two.answer, ModelNotServed)

    def test_a_message_has_items_of_one_priority(self, engine: Engine) -> None:
        many = [submission(n) for n in range(4)]
        wire = Wire(*(led(f"flight-{n}", priority=9 if n % 2 else 0) for n in range(4)))
        wire.run(engine.submit(many))
        assert {(message.priority, tuple(item.token for item in message.items)) for message in wire.sent} == {
            (0, ("flight-0", "flight-2")), (9, ("flight-1", "flight-3")),
        }  # fmt: skip
        assert many[0].task_id == many[2].task_id != many[1].task_id == many[3].task_id

    def test_look_ups_are_split_so_that_a_round_trip_stays_bounded(self, engine: Engine) -> None:
        wire = Wire(*(Hit(entry()) for _ in range(CHUNK + 1)))
        wire.run(engine.submit([submission(n) for n in range(CHUNK + 1)]))
        assert [len(round_trip) for round_trip in wire.round_trips] == [CHUNK, 1]

    def test_hits_are_answered_beside_misses(self, engine: Engine) -> None:
        hit, miss = submission(1), submission(2)
        wire = Wire(Hit(entry("known")), led("flight-1"))
        wire.run(engine.submit([hit, miss]))
        assert value_of(hit) == "known"
        assert [item.key for item in wire.sent[0].items] == [miss.key]

    def test_a_refresh_is_answered_only_by_what_its_flight_brings(self, engine: Engine) -> None:
        one, wire = submission(refresh=True), Wire(led("flight-1", order=9), joined("flight-1"))
        wire.run(engine.submit([one]))
        wire.run(engine.look([one]))
        assert argument(wire.calls("join")[0], "refresh") == "1"
        assert argument(wire.calls("look")[0], "not_before") == 9


class TestEqualKeysInOneCall:
    def test_join_once(self, engine: Engine) -> None:
        ones = [submission(1, Who.DETACHED), submission(1.0, Who.DETACHED), submission(2, Who.DETACHED)]
        wire = Wire(led("flight-1"), led("flight-2"))
        wire.run(engine.submit(ones))
        assert wire.round_trips == [["join", "join"]]
        assert sum(len(message.items) for message in wire.sent) == 2
        assert [one.source for one in ones] == [Source.COMPUTED, Source.COALESCED, Source.COMPUTED]
        assert ones[1].task_id is None

    def test_are_answered_by_the_same_hit(self, engine: Engine) -> None:
        ones = [submission(1), submission(1), submission(1)]
        Wire(Hit(entry("known"))).run(engine.submit(ones))
        assert [value_of(one) for one in ones] == ["known"] * 3
        assert {one.source for one in ones} == {Source.HIT}
        assert len(engine.table) == 0

    def test_are_answered_by_the_same_push(self, engine: Engine) -> None:
        ones = [submission(1), submission(1)]
        Wire(led("flight-1")).run(engine.submit(ones))
        push(engine, ones[0].key, "flight-1", entry("pushed"))
        assert [value_of(one) for one in ones] == ["pushed"] * 2

    def test_are_answered_by_a_push_that_came_before_the_reply(self, engine: Engine) -> None:
        ones = [submission(1), submission(1)]

        def reply() -> Joined:
            push(engine, ones[0].key, "flight-1", entry("early"))
            return joined("flight-1")

        Wire(reply).run(engine.submit(ones))
        assert [value_of(one) for one in ones] == ["early"] * 2

    def test_are_refused_together(self, engine: Engine) -> None:
        ones = [submission("text"), submission("text")]
        Wire(led("flight-1")).run(engine.submit(ones))
        assert [type(one.answer) for one in ones] == [InvalidInput] * 2
        assert len(engine.table) == 0

    def test_a_repeat_that_leaves_takes_the_first_nothing(self, engine: Engine) -> None:
        ones = [submission(1), submission(1)]
        wire = Wire(joined("flight-1"))
        wire.run(engine.submit(ones))
        assert wire.run(engine.leave(ones[1], ProducerClosed("gone")))
        assert wire.calls("leave") == []
        assert wire.run(engine.leave(ones[0], ProducerClosed("gone")))
        assert argument(wire.calls("leave")[0], "serial") == argument(wire.calls("join")[0], "serial")


class TestARepeatThatRegistersLate:
    def test_hears_a_push_that_is_about_to_answer_the_first(self, engine: Engine) -> None:
        """The push was taken in, and the first not yet settled, when the repeat came into the table."""
        first, repeat = in_flight(engine, submission()), submission()
        assert engine.table.pushed(first.key.digest, "flight-1", entry("pushed")) == [first]
        answer = engine.table.repeat(first, repeat, 10)
        assert answer == entry("pushed")

    def test_is_answered_as_the_first_was(self, engine: Engine) -> None:
        first, repeat = in_flight(engine, submission()), submission()
        push(engine, first.key, "flight-1", entry("pushed"))
        assert engine.table.repeat(first, repeat, 10) == first.answer


class TestRefusals:
    def test_a_misfit_leaves_and_is_answered_and_nothing_is_sent(self, engine: Engine) -> None:
        one, wire = submission({"not": "an integer"}), Wire(led("flight-1"))
        wire.run(engine.submit([one]))
        assert isinstance(one.answer, InvalidInput)
        assert "an integer" not in str(one.answer)  # names the place, and quotes nothing of the input
        assert wire.sent == []
        (leave,) = wire.calls("leave")
        assert argument(leave, "serial") == argument(wire.calls("join")[0], "serial")
        assert (argument(leave, "inbox"), argument(leave, "kind")) == (engine.inbox, "w")
        assert wire.calls("published") == []
        assert len(engine.table) == 0

    def test_a_misfit_takes_no_other_input_along(self, engine: Engine) -> None:
        bad, good = submission("text"), submission(2)
        wire = Wire(led("flight-1"), led("flight-2"))
        wire.run(engine.submit([bad, good]))
        assert isinstance(bad.answer, InvalidInput)
        assert good.answer is None
        assert [[item.token for item in message.items] for message in wire.sent] == [["flight-2"]]
        assert wire.round_trips == [["join", "join"], ["leave"]]

    def test_what_finds_no_room_leaves_and_what_does_is_sent(self, engine: Engine, clock: Clock) -> None:
        bounded = CARD.model_copy(update={"max_batch_size": 1, "max_queued": 1})
        one, other = submission(1), submission(2)
        wire = Wire(led("flight-1"), led("flight-2"))
        wire.strings = {"t:card:model@1": bounded.model_dump_json().encode()}
        wire.run(engine.submit([one, other]))
        assert (one.answer, type(other.answer)) == (None, QueueFull)
        assert (one.task_id is None, other.task_id) == (False, None)
        assert [argument(call, "serial") for call in wire.calls("leave")] == [other.serial]
        clock.now += MOMENT_S
        wire.run(engine.tick())
        assert [argument(call, "token") for call in wire.calls("published")] == ["flight-1"]

    @pytest.mark.parametrize(("buffer_s", "patience_s", "waits_s"), [(0, None, 0), (10, None, 10), (10, 3, 3)])
    def test_a_broker_that_is_away_is_tried_for_as_long_as_is_buffered(
        self, clock: Clock, buffer_s: float, patience_s: float | None, waits_s: float
    ) -> None:
        engine = Engine(Settings(namespace="t", lease_s=10, buffer_s=buffer_s))
        one, wire, began = submission(), Wire(led("flight-1")), clock.now
        one.patient_until = None if patience_s is None else began + patience_s
        wire.clock, wire.broker_error = clock, BrokerUnavailable("down")
        wire.run(engine.submit([one]))
        assert one.answer is wire.broker_error
        assert clock.now == pytest.approx(began + waits_s)
        assert len(wire.calls("leave")) == 1

    def test_a_broker_that_comes_back_in_time_gets_the_message(self, clock: Clock) -> None:
        engine = Engine(Settings(namespace="t", lease_s=10, buffer_s=10))
        one, wire = submission(), Wire(led("flight-1"))
        wire.clock, wire.broker_error = clock, BrokerUnavailable("down")
        steps = engine.submit([one])
        effects = [next(steps)]
        while not isinstance(effects[-1], Pause):
            try:
                effects.append(steps.send(wire.answer(effects[-1])))
            except BrokerUnavailable as error:
                effects.append(steps.throw(error))
        wire.broker_error = None
        with suppress(StopIteration):
            while True:
                effects.append(steps.send(wire.answer(effects[-1])))
        assert one.answer is None
        assert one.task_id is not None
        assert wire.calls("leave") == []

    def test_a_message_that_the_broker_does_not_take_is_a_leave(self, engine: Engine) -> None:
        one, other = submission(1), submission(2, Who.DETACHED)
        wire = Wire(led("flight-1"), led("flight-2"))
        wire.broker_error = BrokerUnavailable("down")
        wire.run(engine.submit([one, other]))
        assert one.answer is wire.broker_error
        assert other.answer is wire.broker_error
        assert [argument(call, "kind") for call in wire.calls("leave")] == ["w", "d"]
        wire.run(engine.tick())
        assert wire.calls("published") == []

    def test_a_model_whose_card_never_comes_is_a_leave(self, engine: Engine, clock: Clock) -> None:
        one, wire = submission(), Wire(led("flight-1"))
        wire.strings, wire.clock = {}, clock
        wire.run(engine.submit([one]))
        assert isinstance(one.answer, ModelNotServed)
        assert (len(wire.calls("leave")), wire.sent) == (1, [])

    def test_a_cache_that_does_not_answer_fails_the_call_and_withdraws_all(self, engine: Engine) -> None:
        one = submission()
        with pytest.raises(CacheUnavailable):
            Wire(CacheUnavailable("down")).run(engine.submit([one, submission(1), submission(2)]))
        assert len(engine.table) == 0
        assert one.answer is None

    def test_an_input_above_the_limit_is_refused_before_anything_is_asked(self) -> None:
        engine = Engine(Settings(namespace="t", max_input_bytes=10))
        assert engine.inputs.canonical("x" * 8).text == b'"xxxxxxxx"'
        with pytest.raises(InvalidInput, match="FORESEEN_MAX_INPUT_BYTES"):
            engine.inputs.canonical("x" * 9)

    def test_blobs_count_toward_the_limit(self) -> None:
        engine = Engine(Settings(namespace="t", max_input_bytes=1000))
        engine.inputs.canonical(b"x" * 900)
        with pytest.raises(InvalidInput, match="allows 1000"):
            engine.inputs.canonical(b"x" * 1000)


class TestPushes:
    def test_answer_each_who_joined_once(self, engine: Engine) -> None:
        one, other = in_flight(engine, submission(1)), in_flight(engine, submission(1))
        heard = [listen(engine, one), listen(engine, other)]
        push(engine, one.key, "flight-1", entry("pushed"))
        push(engine, one.key, "flight-1", entry("again"))
        assert heard == [[Result("pushed")], [Result("pushed")]]
        assert len(engine.table) == 0

    def test_a_push_before_the_reply_to_the_join_is_not_lost(self, engine: Engine) -> None:
        one = submission()

        def reply() -> Joined:
            push(engine, one.key, "flight-1", entry("early"))
            return joined("flight-1")

        Wire(reply).run(engine.submit([one]))
        assert value_of(one) == "early"

    def test_an_early_push_for_another_flight_is_none(self, engine: Engine) -> None:
        one = submission()

        def reply() -> Joined:
            push(engine, one.key, "flight-0", entry("older"))
            return joined("flight-1")

        Wire(reply).run(engine.submit([one]))
        assert one.answer is None
        push(engine, one.key, "flight-1", entry("own"))
        assert value_of(one) == "own"

    def test_an_early_push_that_cannot_be_read_leaves_it_to_the_look(self, engine: Engine, clock: Clock) -> None:
        """Another release's entry, say: nobody hangs for it."""
        one = submission()

        def reply() -> Joined:
            push(engine, one.key, "flight-1", TORN)
            return joined("flight-1", wait_ms=1000)

        Wire(reply).run(engine.submit([one]))
        assert one.answer is None
        assert engine.table.due(clock.now + 2, 10) == [one]

    def test_a_push_that_cannot_be_read_leaves_it_to_the_look(self, engine: Engine, clock: Clock) -> None:
        one = in_flight(engine, submission())
        push(engine, one.key, "flight-1", TORN)
        assert one.answer is None
        assert engine.table.due(clock.now + 2, 10) == [one]

    def test_a_push_for_flights_never_joined_is_ignored(self, engine: Engine, clock: Clock) -> None:
        one = in_flight(engine, submission())
        push(engine, one.key, "flight-0,flight-2", entry("not yours"))
        push(engine, submission(2).key, "flight-1", entry("another key"))
        assert one.answer is None
        assert engine.table.due(clock.now, 10) == []

    def test_a_push_answers_to_the_flights_it_replaced(self, engine: Engine) -> None:
        one = in_flight(engine, submission(), "flight-1")
        push(engine, one.key, "flight-2,flight-1", entry("taken over"))
        assert value_of(one) == "taken over"

    def test_a_push_with_only_the_name_means_look_now(self, engine: Engine, clock: Clock) -> None:
        one = in_flight(engine, submission())
        assert engine.table.due(clock.now, 10) == []
        push(engine, one.key, "flight-1", b"")
        assert one.answer is None
        assert engine.table.due(clock.now, 10) == [one]

    def test_a_push_with_only_the_name_before_the_reply_means_look_now(self, engine: Engine, clock: Clock) -> None:
        one = submission()

        def reply() -> Joined:
            push(engine, one.key, "flight-1", b"")
            return joined("flight-1")

        Wire(reply).run(engine.submit([one]))
        assert engine.table.due(clock.now, 10) == [one]

    def test_a_push_with_only_the_name_during_a_look_means_look_once_more(self, engine: Engine, clock: Clock) -> None:
        one = in_flight(engine, submission())
        assert engine.table.due(clock.now + 5, 10) == [one]

        def reply() -> Joined:
            push(engine, one.key, "flight-1", b"")
            assert engine.table.due(clock.now, 10) == []  # one look at a time
            return joined("flight-1")

        Wire(reply).run(engine.look([one]))
        assert engine.table.due(clock.now, 10) == [one]

    @pytest.mark.parametrize("message", [b"", b"\n", b"model@1", b"\xff\xfe \n", b"model@1: \n\x01", b"a b\nc"])
    def test_what_is_no_push_is_ignored(self, engine: Engine, message: bytes) -> None:
        one = in_flight(engine, submission())
        engine.on_push(message)
        assert one.answer is None


class TestLooking:
    def test_comes_when_the_server_said_and_a_little_later(self, engine: Engine, clock: Clock) -> None:
        one = submission()
        Wire(joined("flight-1", wait_ms=3000)).run(engine.submit([one]))
        due = engine.table.next_due()
        assert due is not None
        assert 3 < due - clock.now < 3.1

    def test_names_the_flights_joined_and_the_queue_s_watermark(self, engine: Engine) -> None:
        one, wire = in_flight(engine, submission(priority=7)), Wire(joined("flight-2"), joined("flight-2"))
        wire.watermarks["t:w:{t.model@1:7}"] = [b"123", b"456"]
        wire.run(engine.look([one]))
        wire.run(engine.look([one]))
        first, second = wire.calls("look")
        assert (argument(first, "tokens"), argument(second, "tokens")) == ("flight-1", "flight-1,flight-2")
        assert (argument(first, "passed"), argument(first, "began")) == (123, 456)
        assert argument(first, "serial") < argument(second, "serial")

    def test_a_watermark_that_is_missing_is_zero(self, engine: Engine) -> None:
        one, wire = in_flight(engine, submission()), Wire(joined("flight-1"))
        wire.run(engine.look([one]))
        assert [argument(wire.calls("look")[0], name) for name in ("passed", "began")] == [0, 0]

    def test_finds_the_outcome(self, engine: Engine) -> None:
        one = in_flight(engine, submission())
        Wire(Hit(entry("kept"))).run(engine.look([one]))
        assert value_of(one) == "kept"
        assert one.source is Source.COALESCED

    def test_a_flight_that_is_to_be_sent_again_is(self, engine: Engine, clock: Clock) -> None:
        """Reopened, taken over, or its message is lost: the script says so, whoever asks publishes."""
        ones = [in_flight(engine, submission(1), "flight-1"), in_flight(engine, submission(2), "flight-2")]
        wire = Wire(led("flight-3"), joined("flight-2", publish=True))
        wire.run(engine.look(ones))
        clock.now += MOMENT_S
        wire.run(engine.tick())
        assert [[item.token for item in message.items] for message in wire.sent] == [["flight-3", "flight-2"]]
        assert [argument(call, "token") for call in wire.calls("published")] == ["flight-3", "flight-2"]
        assert ones[0].source is Source.COALESCED
        assert ones[0].task_id == wire.sent[0].id

    def test_what_is_sent_again_is_sorted_by_model(self, engine: Engine) -> None:
        one, canonical = submission(1), canonicalize(1)
        other = Submission(key_of("other", "2", canonical), canonical, Who.WAITER)
        in_flight(engine, one)
        in_flight(engine, other)
        wire = Wire(led("flight-3"), led("flight-4"))
        card = CARD.model_copy(update={"name": "other", "version": "2"})
        wire.strings["t:card:other@2"] = card.model_dump_json().encode()
        wire.run(engine.look([one, other]))
        assert [message.model_id for message in wire.sent] == ["model@1", "other@2"]

    def test_a_message_that_cannot_be_sent_again_waits_for_the_next_look(self, engine: Engine, clock: Clock) -> None:
        one, wire = in_flight(engine, submission()), Wire(led("flight-2"))
        wire.broker_error = BrokerUnavailable("down")
        wire.run(engine.look([one]))
        assert one.answer is None
        assert engine.table.due(clock.now + 2, 10) == [one]

    def test_an_attached_one_of_which_nothing_is_known_any_more_is_told(self, engine: Engine) -> None:
        one = in_flight(engine, attached())
        Wire(Unknown()).run(engine.look([one]))
        assert isinstance(one.answer, UnknownKey)
        assert str(one.key) in str(one.answer)

    def test_attaching_to_what_is_not_known_tells_so(self, engine: Engine) -> None:
        one, wire = attached(), Wire(Unknown())
        wire.run(engine.submit([one]))
        assert isinstance(one.answer, UnknownKey)
        assert len(engine.table) == 0

    def test_an_outcome_that_cannot_be_read_is_computed_anew(self, engine: Engine) -> None:
        one, wire = in_flight(engine, submission()), Wire(Hit(TORN), led("flight-2"))
        wire.run(engine.look([one]))
        assert wire.round_trips == [["look"], ["join"]]
        assert [item.token for item in wire.sent[0].items] == ["flight-2"]

    @pytest.mark.parametrize("where", ["watermark", "look"])
    def test_a_cache_that_does_not_answer_is_asked_again_soon(self, engine: Engine, clock: Clock, where: str) -> None:
        ones = [in_flight(engine, submission(n), f"flight-{n}") for n in range(3)]
        assert len(engine.table.due(clock.now + 5, 10)) == 3
        wire = Wire(CacheUnavailable("down"))
        if where == "watermark":
            wire.cache_error = CacheUnavailable("down")
        with pytest.raises(CacheUnavailable):
            wire.run(engine.look(ones))
        assert engine.table.due(clock.now + 2, 10) == []
        assert engine.table.due(clock.now + 2.6, 10) == ones  # a quarter of a lease
        push(engine, ones[0].key, "flight-0", entry("pushed"))
        assert value_of(ones[0]) == "pushed"

    def test_an_answer_that_came_during_the_look_stands(self, engine: Engine) -> None:
        one = in_flight(engine, submission())
        heard = listen(engine, one)

        def reply() -> Hit:
            push(engine, one.key, "flight-1", entry("pushed"))
            return Hit(entry("looked"))

        Wire(reply).run(engine.look([one]))
        assert heard == [Result("pushed")]


class TestLeaving:
    def test_the_last_local_waiter_of_a_key_leaves_and_names_the_latest_serial(self, engine: Engine) -> None:
        wire = Wire(joined("flight-1"), joined("flight-1"), joined("flight-1"))
        ones = [submission(1) for _ in range(3)]
        for one in ones:
            wire.run(engine.submit([one]))
        latest = argument(wire.calls("join")[-1], "serial")
        assert wire.run(engine.leave(ones[2], ProducerClosed("gone")))  # who joined last leaves first
        assert wire.run(engine.leave(ones[0], ProducerClosed("gone")))
        assert wire.calls("leave") == []
        assert wire.run(engine.leave(ones[1], ProducerClosed("gone")))
        assert [argument(call, "serial") for call in wire.calls("leave")] == [latest]

    def test_a_look_s_serial_counts_too(self, engine: Engine) -> None:
        one, wire = in_flight(engine, submission()), Wire(joined("flight-1"))
        wire.run(engine.look([one]))
        wire.run(engine.leave(one, ProducerClosed("gone")))
        assert argument(wire.calls("leave")[0], "serial") == argument(wire.calls("look")[0], "serial")

    def test_waiters_and_detached_leave_each_for_themselves(self, engine: Engine) -> None:
        waiter, detached = in_flight(engine, submission(1)), in_flight(engine, submission(1, Who.DETACHED))
        wire = Wire()
        wire.run(engine.leave(detached, ProducerClosed("gone")))
        wire.run(engine.leave(waiter, ProducerClosed("gone")))
        assert [argument(call, "kind") for call in wire.calls("leave")] == ["d", "w"]

    def test_gives_its_answer_and_no_push_gives_another(self, engine: Engine) -> None:
        one = in_flight(engine, submission())
        heard, goodbye = listen(engine, one), ProducerClosed("gone")
        Wire().run(engine.leave(one, goodbye))
        push(engine, one.key, "flight-1", entry())
        assert heard == [goodbye]

    def test_a_look_that_joins_after_the_leave_is_undone_and_sends_nothing(self, engine: Engine) -> None:
        """The leave was first at the server: the look then opened a flight that nobody here wants."""
        one = in_flight(engine, submission(kind=Who.DETACHED))
        leaving = Wire()

        def leave_first() -> Joined:
            assert leaving.run(engine.leave(one, ProducerClosed("gone")))
            return led("flight-2")

        wire = Wire(leave_first)
        wire.run(engine.look([one]))
        wire.run(engine.tick())
        assert wire.sent == []
        (undone,) = wire.calls("leave")
        assert argument(undone, "serial") == argument(wire.calls("look")[0], "serial")

    def test_a_stray_join_stays_if_another_still_wants_the_key(self, engine: Engine) -> None:
        one, other = in_flight(engine, submission()), in_flight(engine, submission())

        def leave_first() -> Joined:
            assert Wire().run(engine.leave(one, ProducerClosed("gone")))
            return joined("flight-1")

        wire = Wire(leave_first)
        wire.run(engine.look([one]))
        wire.run(engine.tick())
        assert wire.calls("leave") == []
        assert other.answer is None

    def test_who_has_an_answer_cannot_leave(self, engine: Engine) -> None:
        one, wire = in_flight(engine, submission()), Wire()
        push(engine, one.key, "flight-1", entry("first"))
        assert not wire.run(engine.leave(one, ProducerClosed("late")))
        assert value_of(one) == "first"
        assert wire.effects == []


class TestWhatRidesAlong:
    def test_is_sent_with_the_round_trip_after_one_that_failed(self, engine: Engine, clock: Clock) -> None:
        wire = Wire(led("flight-1"))
        wire.run(engine.submit([submission()]))
        clock.now += MOMENT_S
        wire.cache_error = CacheUnavailable("down")
        with pytest.raises(CacheUnavailable):
            wire.run(engine.tick())
        wire.cache_error = None
        wire.effects.clear()
        wire.run(engine.tick())
        assert wire.round_trips == [["published"]]


class TestClosing:
    def test_everybody_gets_producer_closed_and_only_waiters_leave(self, engine: Engine) -> None:
        waiters = [in_flight(engine, submission(1)), in_flight(engine, submission(1))]
        detached = in_flight(engine, submission(2, Who.DETACHED))
        heard = [listen(engine, one) for one in (*waiters, detached)]
        wire = Wire()
        wire.run(engine.close())
        assert [[type(answer) for answer in each] for each in heard] == [[ProducerClosed]] * 3
        assert [argument(call, "kind") for call in wire.calls("leave")] == ["w"]
        assert wire.calls("leave")[0].keys[0] == engine.space.flight(waiters[0].key)
        assert len(engine.table) == 0

    def test_takes_marks_along(self, engine: Engine) -> None:
        wire = Wire(led("flight-1"))
        wire.run(engine.submit([submission(kind=Who.DETACHED)]))
        wire.run(engine.close())
        assert wire.round_trips == [["join"], ["published"]]

    def test_with_nothing_open_asks_nothing(self, engine: Engine) -> None:
        wire = Wire()
        wire.run(engine.close())
        assert wire.effects == []

    def test_everybody_is_answered_though_the_cache_is_down(self, engine: Engine) -> None:
        one, wire = in_flight(engine, submission()), Wire()
        wire.cache_error = CacheUnavailable("down")
        with pytest.raises(CacheUnavailable):
            wire.run(engine.close())
        assert isinstance(one.answer, ProducerClosed)

    def test_nothing_is_submitted_afterwards(self, engine: Engine) -> None:
        wire = Wire()
        wire.run(engine.close())
        with pytest.raises(ProducerClosed):
            wire.run(engine.submit([submission()]))
        assert wire.effects == []

    def test_while_a_join_is_in_the_air_answers_it_once(self, engine: Engine) -> None:
        one = submission()

        def reply() -> Joined:
            Wire().run(engine.close())
            return joined("flight-1")

        Wire(reply).run(engine.submit([one]))
        assert isinstance(one.answer, ProducerClosed)


class TestModels:
    def test_a_bare_name_means_the_current_version(self, engine: Engine) -> None:
        wire = Wire()
        wire.strings["t:current:model"] = b"1"
        assert wire.run(engine.key("model", canonicalize(1))) == submission(1).key
        assert wire.run(engine.key("model", canonicalize(1))) == submission(1).key
        assert len(wire.effects) == 1  # known from then on

    def test_a_named_version_is_taken_as_it_is(self, engine: Engine) -> None:
        wire = Wire()
        assert wire.run(engine.key("model@1", canonicalize(1))) == submission(1).key
        assert wire.effects == []

    def test_a_name_that_nobody_serves_is_waited_for_and_then_refused_with_near_ones(
        self, engine: Engine, clock: Clock
    ) -> None:
        wire = Wire()
        wire.clock, wire.models = clock, {b"file-type@1", b"other@3"}
        began = clock.now
        with pytest.raises(ModelNotServed, match="did you mean 'file-type'") as raised:
            wire.run(engine.key("file-typ", canonicalize(1)))
        assert "'other'" not in str(raised.value)
        assert 1 <= clock.now - began < 1.2  # model_wait_s
        assert any(isinstance(effect, Pause) for effect in wire.effects)

    def test_a_model_that_appears_while_it_is_waited_for_is_served(self, engine: Engine, clock: Clock) -> None:
        wire = Wire()
        wire.clock = clock
        steps = engine.key("model", canonicalize(1))
        assert isinstance(next(steps), Read)
        assert isinstance(steps.send([None]), Pause)
        assert isinstance(steps.send(None), Read)
        with pytest.raises(StopIteration) as ended:
            steps.send([b"1"])
        assert ended.value.value == submission(1).key

    def test_without_waiting_one_look_decides(self, clock: Clock) -> None:
        del clock
        engine, wire = Engine(Settings(namespace="t", model_wait_s=0)), Wire()
        with pytest.raises(ModelNotServed):
            wire.run(engine.key("model", canonicalize(1)))
        assert len(wire.effects) == 2  # the pointer, and the names for the message

    def test_a_card_is_read_once(self, engine: Engine) -> None:
        wire = Wire(led("flight-1"), led("flight-2"))
        wire.run(engine.submit([submission(1)]))
        wire.run(engine.submit([submission(2)]))
        assert len([effect for effect in wire.effects if isinstance(effect, Read)]) == 1

    def test_a_card_that_cannot_be_read_counts_as_missing(self, engine: Engine, clock: Clock) -> None:
        one, wire = submission(), Wire(led("flight-1"))
        wire.strings, wire.clock = {"t:card:model@1": b"{}"}, clock
        wire.run(engine.submit([one]))
        assert isinstance(one.answer, ModelNotServed)

    def test_refreshing_learns_a_new_version_and_a_new_card(self, engine: Engine) -> None:
        wire = Wire(led("flight-1"), led("flight-2"))
        wire.strings["t:current:model"] = b"1"
        wire.run(engine.key("model", canonicalize(1)))
        wire.run(engine.submit([submission(1)]))
        wire.strings["t:current:model"] = b"2"
        wire.strings["t:card:model@1"] = CARD.model_copy(update={"input_schema": True}).model_dump_json().encode()
        wire.run(engine.catalog.refresh())
        assert engine.catalog.version("model") == ("model", "2")
        text = submission("text now fits")
        wire.run(engine.submit([text]))
        assert text.answer is None

    def test_refreshing_keeps_what_has_gone_missing(self, engine: Engine) -> None:
        wire = Wire(led("flight-1"), led("flight-2"))
        wire.strings["t:current:model"] = b"1"
        wire.run(engine.key("model", canonicalize(1)))
        wire.run(engine.submit([submission(1)]))
        wire.strings = {}
        wire.run(engine.catalog.refresh())
        assert engine.catalog.version("model") == ("model", "1")
        wire.run(engine.submit([submission(2)]))
        assert len(wire.sent) == 2

    def test_refreshing_what_nobody_asked_for_asks_nothing(self, engine: Engine) -> None:
        wire = Wire()
        wire.run(engine.catalog.refresh())
        assert wire.effects == []


class TestEntries:
    @pytest.mark.parametrize(("data", "outcome"), [(entry(3), Result(3)), (None, None), (TORN, None)])
    def test_peeking_tells_what_is_there(self, engine: Engine, data: bytes | None, outcome: Outcome | None) -> None:
        wire = Wire()
        wire.others["peek"] = data
        assert wire.run(engine.peek(submission().key)) == outcome

    @pytest.mark.parametrize("was_there", [True, False])
    def test_invalidating_tells_whether_there_was_one(self, engine: Engine, was_there: bool) -> None:
        wire = Wire()
        wire.others["invalidate"] = was_there
        assert wire.run(engine.invalidate(submission().key)) is was_there

    def test_purging_a_version_replaces_the_generation_of_every_bucket(self, engine: Engine) -> None:
        wire = Wire()
        wire.models = {b"model@1", b"model@2"}
        assert wire.run(engine.purge("model@1")) == 1
        assert [call.keys[0] for call in wire.calls("purge")] == [f"t:g:{{model@1:{bucket}}}" for bucket in BUCKETS]
        assert len(set(BUCKETS)) == 256

    def test_purging_a_bare_name_purges_all_its_versions(self, engine: Engine) -> None:
        wire = Wire()
        wire.strings["t:current:model"] = b"3"
        wire.models = {b"model@1", b"model@2", b"model-b@1", b"other@1"}
        assert wire.run(engine.purge("model")) == 3
        buckets = {call.keys[0] for call in wire.calls("purge")}
        assert buckets == {engine.space.generation_of(f"model@{n}", bucket) for n in "123" for bucket in BUCKETS}
        assert len(wire.calls("purge")) == 3 * 256


class TestDeadlines:
    def test_are_told_as_what_is_left(self, engine: Engine, clock: Clock) -> None:
        one, wire = submission(deadline_s=5), Wire(joined("flight-1"), joined("flight-1"), joined("flight-1"))
        wire.run(engine.submit([one]))
        clock.now += 2
        wire.run(engine.look([one]))
        clock.now += 60
        wire.run(engine.look([one]))
        told = [call.args[11] for call in (*wire.calls("join"), *wire.calls("look"))]
        assert told == [5000, 3000, 1]  # one that has passed is not "none", which is 0

    def test_none_is_zero(self, engine: Engine) -> None:
        wire = Wire(joined("flight-1"))
        wire.run(engine.submit([submission()]))
        assert wire.calls("join")[0].args[11] == 0


def test_each_join_has_a_serial_and_a_token_of_its_own(engine: Engine) -> None:
    wire = Wire(*(joined("flight-1") for _ in range(20)))
    wire.run(engine.submit([submission(n) for n in range(20)]))
    serials = [argument(call, "serial") for call in wire.calls("join")]
    assert serials == sorted(set(serials))
    assert len({argument(call, "token") for call in wire.calls("join")}) == 20
    assert {argument(call, "inbox") for call in wire.calls("join")} == {engine.inbox}


def test_two_producers_have_inboxes_of_their_own() -> None:
    assert Engine(Settings(namespace="t")).inbox != Engine(Settings(namespace="t")).inbox


# --- refreshing -------------------------------------------------------------------------------------------------------


def due(stale: bool = True, **changes: Any) -> Due:
    """Return the reply to whoever meets an entry that is due, and is to send the message."""
    return Due(entry(), stale, led("refresh1", order=9, priority=0, **changes))


def test_a_stale_entry_answers_and_its_message_waits_until_nobody_does(engine: Engine, clock: Clock) -> None:
    wire = Wire(due())
    asked = submission()
    wire.run(engine.submit([asked]))
    assert (asked.answer, asked.source, asked.task_id) == (Result("answer"), Source.STALE, None)
    assert wire.sent == []
    wire.run(engine.tick())
    (message,) = wire.sent
    assert (message.priority, [item.token for item in message.items]) == (0, ["refresh1"])
    assert asked.task_id is None
    assert len(engine.table) == 0
    clock.now += MOMENT_S
    wire.run(engine.tick())
    assert len(wire.sent) == 1
    assert argument(wire.calls("published")[0], "token") == "refresh1"


def test_an_entry_that_is_refreshed_early_is_a_hit(engine: Engine) -> None:
    wire = Wire(due(stale=False), Due(entry(), stale=False))
    for _ in range(2):
        asked = submission()
        wire.run(engine.submit([asked]))
        assert (asked.answer, asked.source) == (Result("answer"), Source.HIT)
    wire.run(engine.tick())
    assert len(wire.sent) == 1


def test_many_refreshes_travel_together(engine: Engine) -> None:
    wire = Wire(*[Due(entry(), stale=True, refresh=led(f"refresh{n}", priority=0)) for n in range(3)])
    wire.run(engine.submit([submission(n) for n in range(3)]))
    wire.run(engine.tick())
    assert [len(message.items) for message in wire.sent] == [3]


def test_a_refresh_that_cannot_be_sent_is_nobody_s_error(engine: Engine) -> None:
    wire = Wire(due())
    wire.run(engine.submit([submission()]))
    wire.broker_error = BrokerUnavailable("gone")
    wire.run(engine.tick())
    wire.broker_error = None
    wire.run(engine.tick())
    assert len([effect for effect in wire.effects if isinstance(effect, Send)]) == 1
    assert wire.calls("leave") == [], "the flight stands, and who meets the entry a lease later sends it"


def test_what_is_due_is_sent_when_the_producer_is_closed(engine: Engine) -> None:
    wire = Wire(due())
    wire.run(engine.submit([submission()]))
    wire.run(engine.close())
    assert len(wire.sent) == 1


def audited_engine(share: float = 1.0) -> tuple[Engine, Wire]:
    """Return an engine that audits hits of a model which allows it, and its wire."""
    wire = Wire()
    card = CARD.model_copy(update={"policy": {"audit": True}})
    wire.strings["t:card:model@1"] = card.model_dump_json().encode()
    return Engine(Settings(namespace="t", audit_share=share)), wire


def test_a_hit_is_answered_first_and_audited_when_nobody_waits() -> None:
    engine, wire = audited_engine()
    wire.replies.extend([Hit(entry()), Hit(entry())])
    wire.run(engine.submit([submission(1), submission(2)]))
    assert wire.sent == []
    wire.run(engine.tick())
    assert [(message.is_audit, message.priority, message.sent_ms) for message in wire.sent] == [(True, 0, 0)] * 2
    assert [[item.key for item in message.items] for message in wire.sent] == [
        [submission(1).key],
        [submission(2).key],
    ]  # each alone, whatever it was computed with
    wire.run(engine.tick())
    assert len(wire.sent) == 2
    assert wire.calls("published") == [], "there is no flight to mark"


def test_only_hits_are_audited() -> None:
    engine, wire = audited_engine()
    one = submission()
    wire.replies.append(joined("flight-1"))
    wire.run(engine.submit([one]))
    push(engine, one.key, "flight-1", entry())
    wire.replies.append(Hit(entry()))
    wire.run(engine.submit([attached(2)]))
    wire.run(engine.tick())
    assert value_of(one) == "answer"
    assert wire.sent == []


def test_no_hit_is_audited_unless_that_is_set(engine: Engine) -> None:
    wire = Wire(Hit(entry()))
    wire.run(engine.submit([submission()]))
    wire.run(engine.tick())
    assert wire.sent == []


def test_a_share_of_the_hits_is_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([0.009, 0.01, 0.5, 0.0])
    monkeypatch.setattr("foreseen.client.audits.random", SimpleNamespace(random=lambda: next(drawn)))
    engine, wire = audited_engine(0.01)
    for value in range(4):
        wire.replies.append(Hit(entry()))
        wire.run(engine.submit([submission(value)]))
    wire.run(engine.tick())
    assert [message.items[0].key for message in wire.sent] == [submission(0).key, submission(3).key]


def test_a_model_or_a_release_that_knows_no_audits_is_sent_none() -> None:
    engine, wire = audited_engine()
    wire.strings["t:card:model@1"] = CARD.model_dump_json().encode()
    wire.replies.append(Hit(entry()))
    wire.run(engine.submit([submission()]))
    wire.run(engine.tick())
    assert wire.sent == []


def test_an_audit_that_cannot_be_sent_is_nobody_s_error() -> None:
    engine, wire = audited_engine()
    for error in (BrokerUnavailable("away"), None):
        wire.broker_error = error
        wire.replies.append(Hit(entry()))
        wire.run(engine.submit([submission()]))
        wire.run(engine.tick())
    assert len(wire.sent) == 1
    assert wire.sent[0].items[0].key == submission().key


def test_audits_are_sent_when_the_producer_is_closed() -> None:
    engine, wire = audited_engine()
    wire.replies.append(Hit(entry()))
    wire.run(engine.submit([submission()]))
    wire.run(engine.close())
    assert len(wire.sent) == 1


def test_an_audit_adds_to_no_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[Any] = []
    engine, wire = audited_engine()
    monkeypatch.setattr(wire, "publish", lambda messages, bound: bounds.append(bound) or messages)
    wire.replies.append(Hit(entry()))
    wire.run(engine.submit([submission()]))
    wire.run(engine.tick())
    assert bounds == [{"t.model@1": 32}]


def test_a_due_entry_that_cannot_be_read_is_a_miss(engine: Engine) -> None:
    """It waits for the refresh, whose message this caller was told to send."""
    wire = Wire(Due(TORN, stale=True, refresh=led("refresh1", priority=0)), joined("refresh1"))
    asked = submission()
    wire.run(engine.submit([asked]))
    assert (asked.answer, asked.source) == (None, Source.COALESCED)
    assert argument(wire.calls("join")[1], "refresh") == "1"
    wire.run(engine.tick())
    assert [item.token for item in wire.sent[0].items] == ["refresh1"]


class TestNearCache:
    @pytest.fixture
    def near(self, engine: Engine, clock: Clock) -> Near:
        """One that is on, and what is asked for now has not expired by the server's clock."""
        near = engine.near = engine._entries.near = Near(engine.space, 10**6, clock.monotonic)
        near.tracked()
        near.answered(clock.now, NOW_MS / 1000)
        return near

    def hit(self, engine: Engine, value: Any = 1, *replies: Any, wire: Wire | None = None, **options: Any) -> Wire:
        """Submit, where the cache has an entry; return what went over the wire."""
        wire = wire or Wire(*(replies or [Hit(entry())]))
        one = submission(value, **options)
        wire.run(engine.submit([one]))
        assert one.source is Source.HIT
        assert value_of(one) == "answer"
        assert len(engine.table) == 0
        return wire

    def test_what_was_looked_up_is_not_asked_for_again(self, engine: Engine, near: Near) -> None:
        first = self.hit(engine)
        assert [type(effect) for effect in first.effects] == [Read, Ask], "the model's card says whether it may be kept"
        assert self.hit(engine).effects == []
        assert [type(effect) for effect in self.hit(engine, 2).effects] == [Ask], "it is read once"
        assert (near.told().hits, near.told().misses) == (1, 2)

    def test_of_many_only_those_are_asked_for_that_are_not_kept(self, engine: Engine, near: Near) -> None:
        self.hit(engine, 2)
        many = [submission(value) for value in (1, 2, 3, 2)]
        wire = Wire(Hit(entry("one")), Hit(entry("three")))
        wire.run(engine.submit(many))
        assert [value_of(each) for each in many] == ["one", "answer", "three", "answer"]
        assert [each.source for each in many] == [Source.HIT] * 4
        assert [call.keys[2].rpartition(":")[2] for call in wire.calls("join")] == [
            many[0].key.digest,
            many[2].key.digest,
        ]
        assert (near.told().hits, near.told().misses) == (1, 3)
        assert self.hit(engine, 2).effects == []

    @pytest.mark.parametrize("policy", [{"near": False}, {"near": "perhaps"}])
    def test_a_model_that_opts_out_is_not_kept(self, engine: Engine, near: Near, policy: dict[str, Any]) -> None:
        card = CARD.model_copy(update={"policy": policy})
        for _ in range(2):
            wire = Wire(Hit(entry()))
            wire.strings["t:card:model@1"] = card.model_dump_json().encode()
            self.hit(engine, wire=wire)
            assert wire.round_trips == [["join"]]
        assert near.told().entries == 0

    def test_nothing_is_kept_of_a_model_whose_card_is_not_known(self, engine: Engine, near: Near) -> None:
        wire = Wire(Hit(entry()), Hit(entry()))
        card = wire.strings.pop("t:card:model@1")
        self.hit(engine, wire=wire)
        self.hit(engine, wire=wire)
        assert [type(effect) for effect in wire.effects] == [Read, Ask, Ask]
        assert near.told().entries == 0
        wire.strings["t:card:model@1"] = card
        wire.run(engine.refresh())
        self.hit(engine)
        assert (near.told().entries, near.told().emptied) == (1, 0)

    def test_a_card_that_cannot_be_read_is_read_next_time(self, engine: Engine, near: Near) -> None:
        wire = Wire(Hit(entry()))

        def away(*_: str) -> None:
            raise CacheUnavailable("away")

        wire.read = away  # type: ignore[method-assign]
        self.hit(engine, wire=wire)
        assert near.told().entries == 0
        self.hit(engine)
        assert near.told().entries == 1

    def test_a_card_that_has_changed_empties_it(self, engine: Engine, near: Near) -> None:
        self.hit(engine)
        Wire().run(engine.refresh())
        assert near.told().entries == 1
        wire = Wire(Hit(entry()))
        wire.strings["t:card:model@1"] = CARD.model_copy(update={"policy": {"near": False}}).model_dump_json().encode()
        wire.run(engine.refresh())
        assert (near.told().entries, near.told().emptied) == (0, 1)
        self.hit(engine, wire=wire)
        assert near.told().entries == 0

    def test_a_refresh_asks_and_what_it_brings_takes_the_old_ones_place(self, engine: Engine, near: Near) -> None:
        self.hit(engine)
        one = submission(refresh=True)
        Wire(led("flight-1")).run(engine.submit([one]))
        assert near.told().entries == 1
        told: list[int] = []
        engine.table.watch(one, lambda _: told.append(near.told().entries))
        push(engine, one.key, "flight-1", entry("new"))
        assert told == [0], "before whoever waits is told"

    def test_what_was_pushed_or_kept_for_who_joined_is_not_kept(self, engine: Engine, near: Near) -> None:
        """It may be no entry, or no longer the one."""
        self.hit(engine, 2)
        pushed, looked = in_flight(engine, submission(3)), in_flight(engine, submission(4))
        push(engine, pushed.key, "flight-1", entry())
        looked.joining = True
        Wire(Hit(entry())).run(engine.look([looked]))
        assert value_of(pushed) == value_of(looked) == "answer"
        assert near.told().entries == 1

    def test_what_cannot_be_read_is_not_kept(self, engine: Engine, near: Near) -> None:
        self.hit(engine, 2)
        Wire(Hit(TORN), led("flight-1")).run(engine.submit([submission()]))
        assert near.told().entries == 1

    @pytest.mark.parametrize("away", [False, True])
    def test_own_invalidation_is_seen_whatever_the_cache_says(self, engine: Engine, near: Near, away: bool) -> None:
        for steps in (lambda: engine.invalidate(submission().key), lambda: engine.purge("model@1")):
            near.answered(near._clock(), NOW_MS / 1000)
            self.hit(engine)
            wire = Wire()
            wire.cache_error = CacheUnavailable("its reply was lost") if away else None
            with pytest.raises(CacheUnavailable) if away else nullcontext():
                wire.run(steps())  # type: ignore[no-untyped-call]
            assert near.told().entries == 0

    def test_a_look_up_that_an_own_invalidation_overtakes_is_not_kept(self, engine: Engine, near: Near) -> None:
        def late() -> Hit:
            Wire().run(engine.invalidate(submission().key))
            return Hit(entry())

        self.hit(engine, 1, late)
        assert near.told().entries == 0

    def test_what_is_read_without_the_script_is_kept_too(self, engine: Engine, near: Near) -> None:
        """As it is while nearly everything is a hit."""
        engine._habit.note(64, 64)
        keys = [submission(value).key for value in (1, 2, 3)]
        wire = Wire()
        wire.entries = {engine.space.entry(key): entry() for key in keys}
        for value in (1, 1):
            wire.run(engine.submit([submission(value)]))
        wire.run(engine.submit([submission(value) for value in (1, 2, 3)]))
        assert wire.round_trips == []
        assert (near.told().hits, near.told().misses, near.told().entries) == (2, 3, 3)

    def test_what_was_computed_without_the_cache_is_not_kept(self, engine: Engine, near: Near) -> None:
        self.hit(engine, 2)
        one = submission()
        one.mark, one.direct = near.sent(), "d" * 16
        engine._entries.answer(one, entry())
        assert value_of(one) == "answer"
        assert near.told().entries == 1

    @pytest.mark.parametrize(("early_ms", "is_kept"), [(0, True), (150, True), (250, False)])
    def test_an_entry_that_is_soon_refreshed_early_is_left_to_the_server(
        self, engine: Engine, near: Near, early_ms: int, is_kept: bool
    ) -> None:
        """It is fresh for a second more."""
        data = Entry(Kind.RESULT, b"generatn", 7, NOW_MS, NOW_MS + 1000, 5, pack("answer"), Refreshing(early_ms, 0))
        self.hit(engine, 1, Hit(data.encode()))
        assert near.told().entries == int(is_kept)

    def test_a_stale_entry_is_not_kept(self, engine: Engine, near: Near) -> None:
        stale = Entry(Kind.RESULT, b"generatn", 7, NOW_MS - 9, NOW_MS - 1, 5, pack("old"), Refreshing(0, 0)).encode()
        one = submission()
        Wire(Due(stale, stale=True)).run(engine.submit([one]))
        assert (one.source, value_of(one)) == (Source.STALE, "old")
        assert near.told().entries == 0

    def test_without_room_there_is_none(self, engine: Engine) -> None:
        assert engine.near is None
        assert Engine(Settings(namespace="t", near_cache_bytes=1)).near is not None


class TestTallies:
    """What a tally says: hits, those of the near cache, what was saved, hits by key."""

    def told(self, wire: Wire) -> list[tuple[Any, ...]]:
        return [call.args[:3] for call in wire.calls("tally")]

    def test_hits_are_told_with_a_tick_when_that_is_due_and_once(self, engine: Engine, clock: Clock) -> None:
        wire = Wire(Hit(entry()), Hit(entry()), joined("flight-1"))
        wire.run(engine.submit([submission(1), submission(2), submission(3)]))
        wire.run(engine.tick())
        assert self.told(wire) == []
        clock.now += TALLY_S
        wire.run(engine.tick())
        assert self.told(wire) == [(2, 0, 10)]
        clock.now += TALLY_S
        wire.run(engine.tick())
        trips = [[name for name in trip if name != "measure"] for trip in wire.round_trips]  # of one hit in 16
        assert trips == [["join"] * 3, ["tally"]]

    def test_each_way_to_a_hit_is_counted_once(self, engine: Engine) -> None:
        wire = Wire(*[Hit(entry())] * 300)
        for value in range(300):  # one by one; by the last of them everything is read without the script
            wire.run(engine.submit_one(submission(value)))
            wire.entries[engine.space.entry(submission(value).key)] = entry()
        wire.run(engine.submit_one(submission(1)))
        wire.run(engine.submit([submission(value) for value in range(2, 12)]))
        wire.run(engine.submit([attached(12)]))
        wire.run(engine.close())
        assert any(isinstance(effect, Read) for effect in wire.effects)
        assert self.told(wire) == [(312, 0, 312 * 5)]

    def test_what_was_stale_saves_and_is_counted_by_the_script(self, engine: Engine) -> None:
        wire = Wire(Due(entry(), stale=True), Due(entry(), stale=False))
        wire.run(engine.submit([submission(1), submission(2)]))
        wire.run(engine.close())
        assert self.told(wire) == [(1, 0, 10)]

    def test_outcomes_of_flights_and_entries_that_cannot_be_read_are_no_hits(self, engine: Engine) -> None:
        waiting = in_flight(engine, submission(1))
        wire = Wire(Hit(entry()), Hit(TORN), joined("flight-2"))
        wire.run(engine.look([waiting]))
        wire.run(engine.submit([submission(2)]))
        wire.run(engine.close())
        assert waiting.source is Source.COALESCED
        assert self.told(wire) == [(0, 0, 0)], "only that one could not be read"

    def test_each_model_is_told_of_apart(self, engine: Engine) -> None:
        wire = Wire(Hit(entry()), Hit(entry()))
        canonical = canonicalize(1)
        other = Submission(key_of("other", "2", canonical), canonical, Who.WAITER)
        wire.run(engine.submit([submission(1), other]))
        wire.run(engine.close())
        assert [call.keys[0] for call in wire.calls("tally")] == ["t:s:{model@1:00}", "t:s:{other@2:00}"]

    def test_a_tally_that_found_the_cache_away_is_told_later(self, engine: Engine, clock: Clock) -> None:
        wire = Wire(Hit(entry()))
        wire.run(engine.submit([submission(1)]))
        clock.now += TALLY_S
        wire.cache_error = CacheUnavailable("away")
        with pytest.raises(CacheUnavailable):
            wire.run(engine.tick())
        wire.cache_error = None
        wire.run(engine.tick())
        assert self.told(wire)[-1] == (1, 0, 5)
        wire.run(engine.close())
        assert len(self.told(wire)) == 2, "the one that was not heard, and the one that was"

    def test_hits_of_the_near_cache_are_told_beside_the_others(self, engine: Engine, clock: Clock) -> None:
        near = engine.near = engine._entries.near = Near(engine.space, 10**6, clock.monotonic)
        near.tracked()
        near.answered(clock.now, NOW_MS / 1000)
        wire = Wire(Hit(entry()))
        for _ in range(3):
            wire.run(engine.submit([submission("text")]))
        assert near.look(("model", "1"), "text") == Result("answer")
        wire.run(engine.close())
        assert self.told(wire) == [(1, 3, 20)]


class TestExpiry:
    def test_goes_into_the_message_that_it_was_asked_for_with(self, engine: Engine) -> None:
        for n, asked_s in enumerate((1.5, 0, None, 1e300)):
            wire = Wire(led(f"token{n}"))
            asked = engine.inputs.submission(("model", "1"), n, Who.DETACHED, expiry_s=asked_s)
            wire.run(engine.submit([asked]))
            expected = None if asked_s is None else min(asked_s * 1000, 2**53 - 1)
            assert [item.expiry_ms for item in wire.sent[0].items] == [expected]
            (many,) = engine.inputs.submissions(("model", "1"), [1], Who.DETACHED, expiry_s=asked_s)
            assert many.expiry_ms == expected

    def test_is_not_that_of_a_refresh_which_nobody_asked_for(self, engine: Engine) -> None:
        wire = Wire(due())
        wire.run(engine.submit([engine.inputs.submission(("model", "1"), 1, Who.DETACHED, expiry_s=0)]))
        wire.run(engine.tick())
        assert [item.expiry_ms for item in wire.sent[0].items] == [None]

    @pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf")])
    def test_one_that_is_none_is_refused(self, engine: Engine, wrong: float) -> None:
        with pytest.raises(InvalidInput, match="expiry_s"):
            engine.inputs.submission(("model", "1"), 1, Who.WAITER, expiry_s=wrong)
        with pytest.raises(InvalidInput, match="expiry_s"):
            engine.inputs.submissions(("model", "1"), [1], Who.WAITER, expiry_s=wrong)


class TestTags:
    def test_are_registered_before_the_look_up_in_its_round_trip(self, engine: Engine) -> None:
        one, wire = submission(tags=("a", "b")), Wire(Hit(entry()))
        wire.run(engine.submit([one]))
        assert one.source is Source.HIT
        assert wire.round_trips == [["tag", "tag", "join"]]
        assert [argument(call, "tag") for call in wire.calls("tag")] == [tag_digest("a"), tag_digest("b")]
        assert {argument(call, "keys") for call in wire.calls("tag")} == {str(one.key)}
        assert all(call.leads for call in wire.calls("tag"))

    def test_so_are_they_where_one_is_submitted_alone(self, engine: Engine) -> None:
        wire = Wire(Hit(entry()))
        wire.run(engine.submit_one(submission(tags=("a",))))
        assert wire.round_trips == [["tag", "join"]]

    def test_many_keys_of_a_tag_are_registered_at_once(self, engine: Engine) -> None:
        many = [submission(number, tags=("a",)) for number in range(CHUNK + 1)]
        wire = Wire(*[Hit(entry())] * len(many))
        wire.run(engine.submit(many))
        assert [names.count("tag") for names in wire.round_trips] == [1, 1]
        assert all(names[0] == "tag" for names in wire.round_trips)
        keys = [key for call in wire.calls("tag") for key in argument(call, "keys").split(",")]
        assert keys == [str(each.key) for each in many]

    def test_those_of_a_repeat_count_though_it_is_not_looked_up(self, engine: Engine) -> None:
        many = [submission(1), submission(1, tags=("a",)), submission(1, tags=("b", "a"))]
        wire = Wire(Hit(entry()))
        wire.run(engine.submit(many))
        assert wire.round_trips == [["tag", "tag", "join"]]
        assert [value_of(each) for each in many] == ["answer"] * 3

    def test_count_where_entries_are_read_without_the_script(self, engine: Engine) -> None:
        engine._habit.note(64, 64)
        plain, one, two = submission(1), submission(2, tags=("a",)), submission(3, tags=("a",))
        wire = Wire(Hit(entry("one")), Hit(entry("two")), Hit(entry("two")))
        wire.entries[engine.space.entry(plain.key)] = entry("read")
        wire.entries[engine.space.entry(one.key)] = entry("must not be read")
        wire.run(engine.submit([one, plain, two]))
        wire.run(engine.submit_one(submission(3, tags=("a",))))
        assert [value_of(each) for each in (one, plain, two)] == ["one", "read", "two"]
        assert wire.round_trips == [["tag", "join", "join"], ["tag", "join"]]

    def test_count_where_an_entry_is_kept_near(self, engine: Engine, clock: Clock) -> None:
        near = engine.near = engine._entries.near = Near(engine.space, 10**6, clock.monotonic)
        near.tracked()
        near.answered(clock.now, NOW_MS / 1000)
        for tags, asked in (((), ["join"]), ((), None), (("a",), ["tag", "join"]), ((), None)):
            wire = Wire(Hit(entry()))
            wire.run(engine.submit([submission(tags=tags)]))
            assert wire.round_trips == ([asked] if asked else []), tags

    def test_what_is_registered_first_is_kept_near_too(self, engine: Engine, clock: Clock) -> None:
        near = engine.near = engine._entries.near = Near(engine.space, 10**6, clock.monotonic)
        near.tracked()
        near.answered(clock.now, NOW_MS / 1000)
        Wire(Hit(entry())).run(engine.submit([submission(tags=("a",))]))
        assert near.told().entries == 1

    def test_are_registered_again_by_a_look_since_the_cache_may_have_lost_them(
        self, engine: Engine, clock: Clock
    ) -> None:
        one = in_flight(engine, submission(tags=("a",)))
        clock.now += 2
        wire = Wire(joined("flight-1"))
        wire.run(engine.look(engine.table.due(clock.now, 10)))
        assert wire.round_trips == [["tag", "look"]]
        assert one.answer is None

    def test_are_registered_by_a_look_of_what_was_sent_while_the_cache_was_away(self, clock: Clock) -> None:
        engine = Engine(Settings(namespace="t", lease_s=10, without_cache="compute"))
        wire = Wire(joined("flight-1"))
        wire.run(engine.catalog.card("model@1"))
        wire.cache_error = CacheUnavailable("away")
        one = submission(tags=("a",))
        wire.run(engine.submit([one]))
        wire.effects.clear()
        wire.cache_error = None
        clock.now += 20
        wire.run(engine.look(engine.table.due(clock.now, 10)))
        assert wire.round_trips == [["leave", "tag", "look"]]

    def test_an_entry_older_than_what_is_known_of_the_tag_is_forgotten_and_asked_for_again(
        self, engine: Engine
    ) -> None:
        one, wire = submission(tags=("a", "b")), Wire(Hit(entry()), led("flight-1"))
        times = iter([0, NOW_MS + 1])
        wire.others["tag"] = lambda _: [next(times)]
        wire.run(engine.submit([one]))
        assert wire.round_trips == [["tag", "tag", "join"], ["invalidate"], ["join"]]
        assert (one.answer, one.source) == (None, Source.COMPUTED)
        assert [item.token for item in wire.sent[0].items] == ["flight-1"]
        assert argument(wire.calls("join")[0], "serial") < argument(wire.calls("join")[1], "serial")

    def test_one_that_is_not_answers(self, engine: Engine) -> None:
        one, wire = submission(tags=("a",)), Wire(Hit(entry()))
        wire.others["tag"] = [NOW_MS]
        wire.run(engine.submit([one]))
        assert (value_of(one), one.source) == ("answer", Source.HIT)
        assert wire.round_trips == [["tag", "join"]]

    def test_only_the_older_ones_of_many_are(self, engine: Engine) -> None:
        many = [submission(number, tags=("a",)) for number in range(3)]
        wire = Wire(Hit(entry(0)), Hit(entry(1)), Hit(entry(2)), Hit(entry("newer")))
        wire.others["tag"] = [0, NOW_MS + 1, NOW_MS]
        wire.run(engine.submit(many))
        assert wire.round_trips == [["tag", "join", "join", "join"], ["invalidate"], ["join"]]
        assert wire.calls("invalidate")[0].keys[2] == engine.space.entry(many[1].key)
        assert [value_of(each) for each in many] == [0, "newer", 2]

    def test_a_doubted_key_is_forgotten_whatever_was_found_and_settled_then(self, engine: Engine) -> None:
        one, wire = submission(tags=("a", "b")), Wire(joined("old"), led("new"))
        wire.others["tag"] = lambda call: [-123 if argument(call, "tag") == tag_digest("a") else 0]
        wire.run(engine.submit([one]))
        assert wire.round_trips == [["tag", "tag", "join"], ["invalidate"], ["settle", "join"]]
        push(engine, one.key, "old", entry("old"))
        assert one.answer is None
        push(engine, one.key, "new,old", entry("new"))
        assert value_of(one) == "new"
        (settled,) = wire.calls("settle")
        assert settled.keys == (engine.space.tag_index("a"),)
        assert settled.args == (f"{one.key}=123",)

    def test_who_leads_a_flight_of_a_doubted_key_goes_on_leading_it(self, engine: Engine) -> None:
        """It has not begun; but what ran before, and was lost, may end yet."""
        wire = Wire(led("flight-1"))
        wire.others["tag"] = [-123]
        wire.run(engine.submit([submission(tags=("a",))]))
        assert wire.round_trips == [["tag", "join"], ["invalidate"], ["settle"]]
        assert [item.token for item in wire.sent[0].items] == ["flight-1"]

    def test_what_could_not_be_forgotten_is_not_settled(self, engine: Engine) -> None:
        wire = Wire(Hit(entry()))
        wire.others |= {"tag": [-123], "invalidate": refused}
        with pytest.raises(CacheUnavailable):
            wire.run(engine.submit([submission(tags=("a",))]))
        wire.run(engine.tick())
        assert wire.calls("settle") == []

    def test_a_refresh_that_was_opened_by_what_is_forgotten_is_sent_all_the_same(self, engine: Engine) -> None:
        """Who asks again joins that flight, if it has not begun; and nobody else would send its message."""
        one = submission(tags=("a",))
        wire = Wire(Due(entry(), stale=True, refresh=led("flight-1")), joined("flight-1"))
        wire.others["tag"] = [NOW_MS + 1]
        wire.run(engine.submit([one]))
        wire.run(engine.tick())
        assert [item.token for item in wire.sent[0].items] == ["flight-1"]
        assert one.answer is None

    def test_what_is_forgotten_is_no_longer_near(self, engine: Engine, clock: Clock) -> None:
        near = engine.near = engine._entries.near = Near(engine.space, 10**6, clock.monotonic)
        near.tracked()
        near.answered(clock.now, NOW_MS / 1000)
        Wire(Hit(entry())).run(engine.submit([submission()]))
        assert near.told().entries == 1
        wire = Wire(Hit(entry()))
        wire.others |= {"tag": [NOW_MS + 1], "invalidate": refused}
        with pytest.raises(CacheUnavailable):
            wire.run(engine.submit([submission(tags=("a",))]))
        assert near.told().entries == 0
