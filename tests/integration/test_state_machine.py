"""Random interleavings of the real scripts against a plain model of what must always hold.

Producers, a broker and workers are played here, as the engines play them: a message is taken, begun, computed,
finished, acked; a reply may be lost, whereupon the call is sent again, with anything happening in between; pushes and
messages may be lost, processes may die or stop for a while, and the cache may lose any one key. After every step the
model is asked whether that was allowed; in the end nobody may be left without an outcome.

`FORESEEN_EXAMPLES=5000` runs that many examples instead of the few that fit a test run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from foreseen.entry import Entry, failure_body, result_body
from foreseen.errors import ModelFailed
from foreseen.flights import Call, Hit, Joined, Kind, Reply, Ticket, Watermark, nonce
from foreseen.holding import Alone, Begin, Begun, Finish, Finished
from foreseen.keys import Key

if TYPE_CHECKING:
    from conftest import Inbox, Steps

EXAMPLES = int(os.environ.get("FORESEEN_EXAMPLES", "250"))
STEPS = 40
#: Rounds in which everybody who still waits looks again and everything sent is computed. One is enough where nothing
#: was lost; a second, where a flight had to be taken over; the third shows that a fourth is not needed.
ROUNDS = 3
EXPIRY_MS = 600_000
INBOXES = ("a", "b", "c")
PUSHING = ("begin", "finish")
SELDOM = st.sampled_from([False, False, False, False, True])
EVICTABLE = ("generation", "clock", "statistics", "entry", "flight", "outcomes", "ends", "invalidated", "deaths")


@dataclass(eq=False)
class Submission:
    """What a producer knows of one request (`foreseen.client.submission`), and what the model remembers of it."""

    name: int
    key: Key
    inbox: str
    kind: Kind
    refresh: bool
    joined_step: int  # of the first time its join was sent
    floor: int  # the last purge or invalidation before that: nothing that began by then may answer it
    serial: int = 0
    tokens: list[str] = field(default_factory=list)
    not_before: int = 0
    opened_step: int = 0  # of the flight it joined first
    joining: bool = True
    early: list[tuple[str, bytes]] = field(default_factory=list)
    accepted: bool = False  # `submit` has returned
    answer: bytes | None = None
    gone: bool = False  # left, refused, or its process died

    @property
    def open(self) -> bool:
        return self.answer is None and not self.gone

    def __repr__(self) -> str:
        return f"submission {self.name} ({self.kind.name}{', refresh' if self.refresh else ''})"


@dataclass(frozen=True)
class Message:
    """A message of one item; `alone` says that it is the only one."""

    id: str
    key: Key
    token: str
    opened: int
    priority: int
    alone: bool
    copies: int = 0


@dataclass(eq=False)
class Delivery:
    """A message at a worker, from its delivery to its ack."""

    message: Message
    holder: str
    begun: Begun | None = None  # None until the reply to begin is there
    done: bool = False


@dataclass
class Ground:
    """What the model knows of one key."""

    eras: list[tuple[int, str]] = field(default_factory=list)  # steps of purges and invalidations
    holder: str = ""  # who may report a failure: the latest to begin, unless it gave up, was replaced or is over
    live: bool = False  # its lease has not lapsed
    live_era: int = 0
    lost: bool = False  # the broker lost a message
    settled: list[int] = field(default_factory=list)  # when the computations began whose outcome was told

    @property
    def floor(self) -> int:
        return max((step for step, _ in self.eras), default=0)


class Protocol(RuleBasedStateMachine):
    """One example; `steps` is set by the test, since hypothesis makes the machines itself."""

    steps: Steps
    listener: Inbox

    def __init__(self) -> None:
        super().__init__()
        self.flights = self.steps.flights
        model = f"m{nonce()[:6]}"  # keys of its own for each example, two in one bucket
        self.keys = [Key(model, "1", "ab" + str(number) * 38) for number in range(2)]
        self.ground = {key: Ground() for key in self.keys}
        self.step = 0
        self.serial = 0
        self.submissions: list[Submission] = []
        self.to_publish: list[tuple[Submission, Joined]] = []
        self.to_mark: list[tuple[Key, str]] = []
        self.to_note: list[tuple[Delivery, str, Message]] = []
        self.broker: list[Message] = []
        self.unacked: dict[str, Message] = {}
        self.deliveries: list[Delivery] = []
        self.in_doubt: list[Callable[[], None]] = []
        self.began: dict[tuple[Key, str, int], int] = {}  # step at which a holder's begin ran, by its order
        self.opened: dict[str, int] = {}  # step at which a flight was opened, by its token
        self.bytes_of: dict[str, bytes] = {}  # what a computation was told as, by its value
        self.evicted = False
        self.deaf = False

    # --- round trips --------------------------------------------------------------------------------------------------

    def send(self, call: Call[Any], seen: Callable[[Any], None], act: Callable[[Any], None], *, lost: bool) -> None:
        """Run a call. `seen` is what it did at the server, `act` what its caller does with the reply once it has one.

        A lost reply leaves the caller in doubt: it sends the call again, later, and acts on that reply.
        """
        reply = self.run(call)
        seen(reply)
        if lost:
            self.in_doubt.append(lambda: self.send(call, seen, act, lost=False))
        else:
            act(reply)

    def run(self, call: Call[Any]) -> Any:
        self.step += 1
        reply = self.steps.run(call)
        if call.script.name in PUSHING:
            self.hear()
        return reply

    def hear(self) -> None:
        """Take in what was pushed, unless nobody listens at the moment."""
        for push in self.listener.pushes():
            for submission in self.submissions:
                told = (submission.inbox, str(submission.key)) == (push.inbox, push.key)
                if told and submission.open and not self.deaf:
                    self.push(submission, ",".join(push.tokens), push.entry)

    def push(self, submission: Submission, tokens: str, entry: bytes) -> None:
        assert entry, "outcomes are small here"
        if any(token in tokens for token in submission.tokens):
            self.answer(submission, entry)
        elif submission.joining:
            submission.early.append((tokens, entry))

    def answer(self, submission: Submission, data: bytes) -> None:
        """Give a submission its outcome, which must be one that it may get."""
        assert submission.open
        value = self.value_of(data)
        key_text, holder, order = value.split(" ")
        assert key_text == str(submission.key), "the answer to another question"
        began = self.began[submission.key, holder, int(order)]
        assert began > submission.floor, f"{submission} got what began before the purge or invalidation it followed"
        if submission.refresh:
            assert began >= submission.opened_step, f"{submission} got what began before its flight was opened"
        assert self.bytes_of.setdefault(value, data) == data, "callers of one computation got different bytes"
        submission.answer = data
        submission.accepted = True

    @staticmethod
    def value_of(data: bytes) -> str:
        outcome: Any = Entry.decode(data).outcome()
        return str(outcome.value if hasattr(outcome, "value") else outcome.error.message)

    # --- producers ----------------------------------------------------------------------------------------------------

    @initialize(lossy=SELDOM, evicting=SELDOM)
    def begin_example(self, lossy: bool, evicting: bool) -> None:
        self.lossy, self.evicting = lossy, evicting

    def ticket(self, submission: Submission) -> Ticket:
        self.serial += 1
        submission.serial = self.serial
        submission.joining = True
        return Ticket(submission.key, submission.inbox, self.serial, submission.kind, nonce(), submission.refresh)

    @rule(
        key=st.integers(0, 1),
        inbox=st.sampled_from(INBOXES),
        kind=st.sampled_from(Kind),
        refresh=st.sampled_from([False, False, False, True]),
        at_once=st.sampled_from([True, True, False]),
        lost=SELDOM,
    )
    def submit(self, key: int, inbox: str, kind: Kind, refresh: bool, at_once: bool, lost: bool) -> None:
        ground = self.ground[self.keys[key]]
        name = len(self.submissions)
        submission = Submission(name, self.keys[key], inbox, kind, refresh, self.step + 1, ground.floor)
        self.submissions.append(submission)
        self.ask(submission, self.flights.join(self.ticket(submission)), lost=lost)
        if at_once and any(each is submission for each, _ in self.to_publish):
            self.publish_now(*self.to_publish.pop())

    def ask(self, submission: Submission, call: Call[Reply], *, lost: bool, looks: bool = False) -> None:
        def seen(reply: Reply) -> None:
            if not isinstance(reply, Joined):
                return
            if reply.led and reply.token not in self.opened:
                self.opened[reply.token] = self.step
                self.over(submission.key)  # whatever ran is of an older flight
            if looks and reply.publish and not self.ground[submission.key].live:
                self.over(submission.key)  # taken over

        def act(reply: Reply) -> None:
            if submission.open:
                self.take_in(submission, reply)

        self.send(call, seen, act, lost=lost)

    def take_in(self, submission: Submission, reply: Reply) -> None:
        if isinstance(reply, Hit):
            self.answer(submission, reply.entry)
            return
        assert isinstance(reply, Joined), "whoever may open a flight is in one"
        submission.joining = False
        if not submission.tokens:
            submission.opened_step = self.opened.get(reply.token, 0)
        if reply.token not in submission.tokens:
            submission.tokens.append(reply.token)
        if submission.refresh:
            submission.not_before = reply.order
        if reply.publish:
            self.to_publish.append((submission, reply))
        elif all(each is not submission for each, _ in self.to_publish):
            submission.accepted = True
        for tokens, entry in submission.early:
            if submission.open:
                self.push(submission, tokens, entry)
        submission.early.clear()

    @precondition(lambda self: self.to_publish or self.to_mark or self.to_note or self.in_doubt)
    @rule(data=st.data(), alone=st.sampled_from([True, True, False]), lost=SELDOM)
    def what_is_under_way_goes_on(self, data: st.DataObject, alone: bool, lost: bool) -> None:
        """A message is published, or its publication noted, or that of a copy; or a call is sent again."""
        under_way = [each for each in (self.to_publish, self.to_mark, self.to_note, self.in_doubt) if each]
        match self.take(data, self.choose(data, under_way)):
            case (Submission() as submission, Joined() as joined):
                self.publish_now(submission, joined, alone=alone)
            case (Delivery() as delivery, str() as token, Message() as copy):
                self.note(delivery, token, copy, lost=lost)
            case (key, token):
                self.send(self.flights.published(key, token), self.nothing, self.nothing, lost=lost)
            case call_again:
                call_again()

    def publish_now(self, submission: Submission, joined: Joined, *, alone: bool = True) -> None:
        self.broker.append(Message(nonce(), submission.key, joined.token, joined.order, joined.priority, alone))
        submission.accepted = True
        self.to_mark.append((submission.key, joined.token))

    @precondition(lambda self: self.to_publish)
    @rule(data=st.data(), lost=SELDOM)
    def a_publish_fails(self, data: st.DataObject, lost: bool) -> None:
        submission, _ = self.take(data, self.to_publish)
        if submission.open and not submission.accepted:
            self.withdraw(submission, lost=lost)

    @precondition(lambda self: any(each.open and not each.joining for each in self.submissions))
    @rule(data=st.data(), lost=SELDOM)
    def leave(self, data: st.DataObject, lost: bool) -> None:
        self.withdraw(
            self.choose(data, [each for each in self.submissions if each.open and not each.joining]), lost=lost
        )

    def withdraw(self, submission: Submission, *, lost: bool) -> None:
        """End it here, and leave unless another of its kind wants the key (`foreseen.client.table`)."""
        kin = [
            each
            for each in self.submissions
            if (each.key, each.inbox, each.kind) == (submission.key, submission.inbox, submission.kind)
        ]
        serial = max(each.serial for each in kin if each.tokens or each is submission)
        submission.gone = True
        if any(each.open for each in kin):
            return

        def seen(ended: bool) -> None:
            if ended:
                self.over(submission.key)

        call = self.flights.leave(submission.key, submission.inbox, serial, submission.kind)
        self.send(call, seen, self.nothing, lost=lost)

    @precondition(lambda self: any(each.open for each in self.submissions))
    @rule(inbox=st.sampled_from(INBOXES))
    def a_producer_dies(self, inbox: str) -> None:
        """Its waiters lapse; what it submitted and the broker has is computed all the same."""
        for submission in self.submissions:
            if submission.inbox == inbox and submission.open:
                submission.gone = submission.kind is Kind.WAITER or not submission.accepted
        self.to_publish = [(each, joined) for each, joined in self.to_publish if each.open and each.inbox != inbox]
        for key in self.keys:
            name = self.steps.space.flight(key)
            if self.steps.redis.hexists(name, f"w:{inbox}"):
                self.steps.redis.hset(name, f"w:{inbox}", f"{self.serial}:1")

    @precondition(lambda self: any(each.open and not each.joining for each in self.submissions))
    @rule(data=st.data(), lost=SELDOM, late=st.booleans())
    def look(self, data: st.DataObject, lost: bool, late: bool) -> None:
        waiting = [each for each in self.submissions if each.open and not each.joining]
        self.look_again(self.choose(data, waiting), lost=lost, late=late)

    def look_again(self, submission: Submission, *, lost: bool = False, late: bool = True) -> None:
        """Look; `late` says that nothing has begun in the queue for so long that a queued message counts as lost."""
        if late:
            self.set_flight(submission.key, sent=1, probes=0)
        tokens = ",".join(submission.tokens)
        call = self.flights.look(self.ticket(submission), tokens, submission.not_before, Watermark())
        self.ask(submission, call, lost=lost, looks=True)

    # --- the broker ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.broker and self.lossy)
    @rule(data=st.data())
    def lose_a_message(self, data: st.DataObject) -> None:
        self.ground[self.take(data, self.broker).key].lost = True

    @precondition(lambda self: self.broker or self.unacked)
    @rule(data=st.data(), again=SELDOM, lost=SELDOM)
    def deliver(self, data: st.DataObject, again: bool, lost: bool) -> None:
        """Deliver a message; or again, since its visibility timeout has passed while somebody still works on it."""
        if self.unacked and (again or not self.broker):
            self.deliver_now(self.choose(data, list(self.unacked.values())), lost=lost)
        else:
            self.deliver_now(self.take(data, self.broker), lost=lost)

    def deliver_now(self, message: Message, *, lost: bool = False) -> None:
        self.unacked[message.id] = message
        delivery = Delivery(message, nonce())
        self.deliveries.append(delivery)
        key, ground = message.key, self.ground[message.key]

        def seen(begun: Begun) -> None:
            if begun.code in (Begin.RUN, Begin.EXPIRED, Begin.EXHAUSTED):
                self.began.setdefault((key, delivery.holder, begun.order), self.step)
                other = ground.live and ground.holder != delivery.holder and ground.live_era == ground.floor
                assert not other or self.evicted, "two live holders in one generation"
                ground.holder, ground.live, ground.live_era = delivery.holder, True, ground.floor

        def act(begun: Begun) -> None:
            delivery.begun = begun
            if begun.code is Begin.ISOLATE:
                self.send(begin(Alone.IN_WORKER), seen, act, lost=False)
            else:
                self.act_on(delivery, begun)

        def begin(alone: Alone) -> Call[Begun]:
            return self.flights.begin(
                key, message.token, message.opened, 0, message.priority, delivery.holder, message.id,
                alone=alone, copies=message.copies, worker="nobody listens: whoever is silent here is dead",
            )  # fmt: skip

        self.send(begin(Alone(message.alone)), seen, act, lost=lost)

    def act_on(self, delivery: Delivery, begun: Begun) -> None:
        match begun.code:
            case Begin.SETTLED:
                self.ack(delivery)
            case Begin.HELD:
                self.send_copy(delivery, begun.token)
            case Begin.ALONE:
                assert not delivery.message.alone
                self.broker.append(self.again(delivery.message, alone=True))
                self.ack(delivery)
            case Begin.EXHAUSTED:
                self.finish_now(delivery, success=False)
            case _:
                assert begun.code is Begin.RUN, "nothing has a deadline here"

    @staticmethod
    def again(message: Message, *, alone: bool | None = None) -> Message:
        alone = message.alone if alone is None else alone
        return Message(nonce(), message.key, message.token, message.opened, message.priority, alone, message.copies + 1)

    def send_copy(self, delivery: Delivery, token: str) -> None:
        copy = self.again(delivery.message)
        self.broker.append(copy)
        self.to_note.append((delivery, token, copy))
        delivery.done = True

    def note(self, delivery: Delivery, token: str, copy: Message, *, lost: bool = False) -> None:
        """Note that a copy stands in for a delivery; only then is the delivery acked."""
        call = self.flights.copied(delivery.message.key, token, copy.id, copy.copies, delivery.message.token)
        self.send(call, self.nothing, lambda _: self.ack(delivery), lost=lost)

    def ack(self, delivery: Delivery) -> None:
        """Remove the message, also another delivery's record of it: both go by the same tag."""
        delivery.done = True
        self.unacked.pop(delivery.message.id, None)

    # --- workers ------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[Delivery]:
        return [each for each in self.deliveries if each.begun is not None and not each.done]

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        success=st.sampled_from([True, True, False]),
        kept=st.sampled_from([True, True, False]),
        lost=SELDOM,
        deaf=SELDOM,
    )
    def finish(self, data: st.DataObject, success: bool, kept: bool, lost: bool, deaf: bool) -> None:
        self.deaf = deaf
        self.finish_now(self.choose(data, self.running), success=success, kept=kept, lost=lost)
        self.deaf = False

    def finish_now(self, delivery: Delivery, *, success: bool = True, kept: bool = True, lost: bool = False) -> None:
        message, holder, begun = delivery.message, delivery.holder, delivery.begun
        assert begun is not None
        delivery.begun = None  # the call is in the air
        key, ground = message.key, self.ground[message.key]
        value = f"{key} {holder} {begun.order}"
        body = result_body(value) if success else failure_body(ModelFailed(value))

        def seen(finished: Finished) -> None:
            if finished.code in (Finish.KEPT, Finish.TOLD):
                assert success or ground.holder == holder, "a failure of somebody who does not hold the flight"
                began = self.began[key, holder, begun.order]
                assert finished.code is Finish.TOLD or began > ground.floor, "kept what began before a purge"
                ground.settled.append(began)
                self.over(key)

        def act(finished: Finished) -> None:
            match finished.code:
                case Finish.HELD:
                    self.send_copy(delivery, finished.token)
                case Finish.RESEND:
                    self.broker.append(self.again(message))
                    self.ack(delivery)
                case _:
                    self.ack(delivery)

        call = self.flights.finish(
            key, begun, holder, message.id, success=success, body=body, expiry_ms=EXPIRY_MS if kept else 0, cost_us=1,
            copies=message.copies,
        )  # fmt: skip
        self.send(call, seen, act, lost=lost)

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        what=st.sampled_from(
            ["child dies", "child is told to stop", "worker dies", "holder stops for a while", "renewal"]
        ),
        lost=SELDOM,
    )
    def a_computation_is_disturbed(self, data: st.DataObject, what: str, lost: bool) -> None:
        """Of a child that dies, the parent hands the flight back; of a worker that dies, lease and visibility lapse."""
        delivery = self.choose(data, self.running)
        match what:
            case "child dies" | "child is told to stop":
                self.give_up(delivery, died=what == "child dies", lost=lost)
                self.requeue(delivery)
            case "worker dies":
                self.stop(delivery)
                self.requeue(delivery)
            case "holder stops for a while":
                self.stop(delivery)  # and continues later, and does not know
            case _:
                self.renew(delivery, lost=lost)

    def give_up(self, delivery: Delivery, *, died: bool, lost: bool) -> None:
        message, ground = delivery.message, self.ground[delivery.message.key]

        def seen(given: bool) -> None:
            assert not given or ground.holder == delivery.holder
            if given:
                self.over(message.key)

        call = self.flights.give_up(message.key, delivery.holder, died="signal 9" if died else None)
        self.send(call, seen, self.nothing, lost=lost)

    def renew(self, delivery: Delivery, *, lost: bool) -> None:
        ground = self.ground[delivery.message.key]

        def seen(renewed: bool) -> None:
            assert not renewed or ground.holder == delivery.holder
            ground.live = ground.live or renewed

        self.send(self.flights.renew(delivery.message.key, delivery.holder), seen, self.nothing, lost=lost)

    def stop(self, delivery: Delivery) -> None:
        key = delivery.message.key
        if self.steps.redis.hget(self.steps.space.flight(key), "holder") == delivery.holder.encode():
            self.set_flight(key, lease=1)
        if self.ground[key].holder == delivery.holder:
            self.ground[key].live = False

    def requeue(self, delivery: Delivery) -> None:
        delivery.done = True
        message = self.unacked.pop(delivery.message.id, None)
        if message is not None:
            self.broker.append(message)

    def over(self, key: Key) -> None:
        """Nobody holds the key's flight any more."""
        self.ground[key].holder, self.ground[key].live = "", False

    # --- purges, invalidations, evictions -----------------------------------------------------------------------------

    @rule(key=st.integers(0, 1), what=st.sampled_from(["purge", "invalidation"]), lost=SELDOM)
    def forget(self, key: int, what: str, lost: bool) -> None:
        """Purge the bucket or invalidate the key."""
        purged, name = what == "purge", self.keys[key]

        def seen(reply: object) -> None:
            del reply
            for each in self.keys if purged else [name]:
                self.ground[each].eras.append((self.step, what))

        call: Call[Any] = self.flights.purge(name.model_id, name.bucket) if purged else self.flights.invalidate(name)
        self.send(call, seen, self.nothing, lost=lost)

    @precondition(lambda self: self.evicting)
    @rule(key=st.integers(0, 1), kind=st.sampled_from(EVICTABLE))
    def evict(self, key: int, kind: str) -> None:
        name = self.keys[key]
        if not self.steps.redis.delete(getattr(self.steps.space, kind)(name)):
            return
        self.evicted = True
        if kind == "flight":
            self.over(name)
        if kind == "invalidated":  # the one thing that an eviction can undo, if the flight is evicted too
            ground = self.ground[name]
            ground.eras = [(step, what) for step, what in ground.eras if what == "purge"]
            for submission in self.submissions:
                if submission.key == name:
                    submission.floor = min(submission.floor, ground.floor)

    # --- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def every_key_has_an_expiry(self) -> None:
        names = {
            getattr(self.steps.space, kind)(key): None for kind in EVICTABLE for key in self.keys
        }  # as a dict, since both keys share their bucket's
        pipe = self.steps.redis.pipeline(transaction=False)
        for name in names:
            pipe.pttl(name)
        forever = [name for name, ttl in zip(names, pipe.execute(), strict=True) if ttl == -1]
        assert not forever, f"keys without an expiry: {forever}"

    # --- the end ------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        self.drain()
        names = {getattr(self.steps.space, kind)(key) for kind in EVICTABLE for key in self.keys}
        self.steps.redis.delete(*names)

    def drain(self) -> None:
        """Let everybody come to an end, without a further loss; then nobody may be left without an outcome."""
        while self.in_doubt:
            self.in_doubt.pop(0)()
        for submission, joined in self.to_publish:
            self.publish_now(submission, joined)
        self.to_publish.clear()
        self.work_off()
        for submission in self.submissions:
            detached = submission.open and submission.kind is Kind.DETACHED and submission.accepted
            if detached and not self.ground[submission.key].lost:
                began = self.ground[submission.key].settled
                assert any(each > submission.floor for each in began), f"{submission} was accepted and never computed"
        for _ in range(ROUNDS):
            for submission in self.submissions:
                if submission.open:
                    self.look_again(submission)
            for submission, joined in self.to_publish:
                self.publish_now(submission, joined)
            self.to_publish.clear()
            self.work_off()
        hanging = [each for each in self.submissions if each.open]
        assert not hanging, f"still without an outcome: {hanging}"

    def work_off(self) -> None:
        """Deliver and finish until the broker is empty; who is asked to wait for a lease waits until it has lapsed."""
        for _ in range(200):
            for key, token in self.to_mark:
                self.run(self.flights.published(key, token))
            self.to_mark.clear()
            while self.to_note:
                self.note(*self.to_note.pop())
            for delivery in self.running:
                self.finish_now(delivery)
            if not self.broker:
                if not self.unacked:
                    return
                self.broker = list(self.unacked.values())  # of workers that died before they heard whether it begins
            for key in self.keys:
                self.set_flight(key, lease=1)
                self.ground[key].live = False
            self.deliver_now(self.broker.pop(0))
        raise AssertionError("messages go round and round")

    # --- small steps --------------------------------------------------------------------------------------------------

    def set_flight(self, key: Key, **fields: int) -> None:
        """Overwrite fields of a flight by hand, if there is one; it keeps its expiry."""
        name = self.steps.space.flight(key)
        if self.steps.redis.exists(name):
            self.steps.redis.hset(name, mapping=dict(fields))

    @staticmethod
    def take(data: st.DataObject, things: list[Any]) -> Any:
        return things.pop(data.draw(st.integers(0, len(things) - 1)))

    @staticmethod
    def choose(data: st.DataObject, things: list[Any]) -> Any:
        return things[data.draw(st.integers(0, len(things) - 1))]

    @staticmethod
    def nothing(reply: object) -> None:
        del reply


@pytest.mark.timeout(60 + 2 * EXAMPLES)
def test_what_must_always_hold_holds_in_every_interleaving(steps: Steps) -> None:
    machine = type("Example", (Protocol,), {"steps": steps, "listener": steps.inbox(*INBOXES)})
    profile = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=profile)  # type: ignore[no-untyped-call]
