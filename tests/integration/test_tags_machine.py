"""Random interleavings of tagged submissions, invalidations of tags, computations and losses of indexes.

The real engine's steps run against a real server, one command at a time, with anything happening in between, and any
process may stop for ever between two. After every answer a plain model is asked whether it was allowed: who submits
after a tag was invalidated gets nothing that began before, of any input that was submitted with the tag until then; if
the tag's index was lost meanwhile, that holds for who submits with the tag.

`FORESEEN_EXAMPLES=5000` runs that many examples instead of the few that fit a test run.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from foreseen import cards
from foreseen.canonical import canonicalize
from foreseen.cards import Card
from foreseen.client.effects import Ask, Read, Send
from foreseen.client.engine import Engine
from foreseen.client.submission import Submission
from foreseen.entry import result_body
from foreseen.flights import Call, Kind, nonce
from foreseen.holding import Alone, Begin, Begun
from foreseen.keys import Key, key_of
from foreseen.outcome import Result

if TYPE_CHECKING:
    from conftest import Steps

EXAMPLES = int(os.environ.get("FORESEEN_EXAMPLES", "100"))
STEPS = 50
TAGS = ("a", "b")
SELDOM = st.sampled_from([False, False, False, True])
#: Of those that there are: what is drawn does not depend on them, since the server's clock has a say in what happens.
WHICH = st.integers(0, 59)
ENGINES = st.integers(0, 1)
#: Mostly, what is started runs to its end at once, so that examples get somewhere.
AT_ONCE = st.sampled_from([True, True, False])


@dataclass(eq=False)
class Process:
    """Steps of an engine on their way: what is to be sent next, and what has been replied so far."""

    steps: Any
    began: int
    tag: str = ""  # that is being invalidated
    submission: Submission | None = None
    to_send: deque[Any] = field(default_factory=deque)
    replies: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Invalidation:
    tag: str
    began: int
    ended: int


@dataclass
class Computation:
    key: Key
    begun: Begun
    holder: str
    step: int  # at which it began


class Tagging(RuleBasedStateMachine):
    """One example; `steps` is set by the test, since hypothesis makes the machines itself."""

    steps: Steps

    def __init__(self) -> None:
        super().__init__()
        self.engines = [Engine(self.steps.settings) for _ in range(2)]
        self.listener = self.steps.inbox(*(engine.inbox for engine in self.engines))
        version = nonce()  # keys of its own for each example, and tags
        self.model = ("model", version)
        self.tags = {tag: f"{tag} of {version}" for tag in TAGS}
        self.step = 0
        self.processes: list[Process] = []
        self.broker: list[tuple[Key, str, int]] = []
        self.running: list[Computation] = []
        self.started: dict[Submission, int] = {}
        self.judged: set[Submission] = set()
        self.registered: dict[tuple[Key, str], list[int]] = {}
        self.lost: dict[str, list[int]] = {tag: [] for tag in self.tags.values()}
        self.directory_lost: list[int] = []
        self.invalidations: list[Invalidation] = []
        self.computed: dict[str, tuple[int, int]] = {}  # when each began, and was finished
        card = Card(name="model", version=version, queue="none", max_batch_size=1)
        self.steps.cache.commands(cards.publish(self.steps.space, [card], {}, heartbeat_s=600))

    @initialize(losing=st.sampled_from(["nothing", "index", "index", "both"]))
    def begin_example(self, losing: str) -> None:
        self.losing = losing

    # --- producers ----------------------------------------------------------------------------------------------------

    @rule(
        engine=ENGINES,
        value=st.integers(0, 1),
        tags=st.sets(st.sampled_from(TAGS)),
        kind=st.sampled_from(Kind),
        at_once=AT_ONCE,
    )
    def submit(self, engine: int, value: int, tags: set[str], kind: Kind, at_once: bool) -> None:
        canonical = canonicalize(value)
        given = tuple(self.tags[tag] for tag in sorted(tags))
        submission = Submission(key_of(*self.model, canonical), canonical, kind, tags=given)
        self.started[submission] = self.step
        self.start(Process(self.engines[engine].submit([submission]), self.step, submission=submission), at_once)

    @rule(engine=ENGINES, at_once=AT_ONCE)
    def look(self, engine: int, at_once: bool) -> None:
        waiting = self.engines[engine].table.due(float("inf"), 10)
        if waiting:
            self.start(Process(self.engines[engine].look(waiting), self.step), at_once)

    @rule(engine=ENGINES, tag=st.sampled_from(TAGS), at_once=AT_ONCE)
    def invalidate(self, engine: int, tag: str, at_once: bool) -> None:
        name = self.tags[tag]
        self.start(Process(self.engines[engine].invalidate_tag(name), self.step, tag=name), at_once)

    @rule(engine=ENGINES, at_once=AT_ONCE)
    def tick(self, engine: int, at_once: bool) -> None:
        self.start(Process(self.engines[engine].tick(), self.step), at_once)

    def start(self, process: Process, at_once: bool) -> None:
        self.processes.append(process)
        self.advance(process, None)
        while at_once and process in self.processes:
            self.send_one(process)

    @rule(which=WHICH, count=st.integers(1, 4))
    def go_on(self, which: int, count: int) -> None:
        if self.processes:
            process = self.processes[which % len(self.processes)]
            for _ in range(count):
                if process in self.processes:
                    self.send_one(process)

    @rule(which=WHICH, really=SELDOM)
    def stop_for_ever(self, which: int, really: bool) -> None:
        if really and self.processes:
            self.processes.pop(which % len(self.processes))

    def send_one(self, process: Process) -> None:
        """Send the next command of a process; once all of its round trip are answered, its steps go on."""
        sent = process.to_send.popleft()
        self.step += 1
        if isinstance(sent, Call):
            process.replies.append(self.steps.run(sent))
            if sent.script.name == "tag":
                self.note(sent)
            self.hear()
        else:
            process.replies += self.steps.cache.commands([sent])
        if not process.to_send:
            self.advance(process, process.replies)

    def advance(self, process: Process, replies: Any) -> None:
        """Let the steps of a process go on to the next round trip, or to their end."""
        try:
            while True:
                effect = process.steps.send(replies)
                process.replies = []
                match effect:
                    case Ask(calls):
                        process.to_send = deque(calls)
                        return
                    case Read(commands):
                        process.to_send = deque(commands)
                        return
                    case Send():
                        self.broker += [(item.key, item.token, item.opened) for item, _ in effect.items]
                        effect.told({item.token: "message" for item, _ in effect.items})
                        replies = frozenset[str]()
                    case _:
                        raise AssertionError(effect)
        except StopIteration:
            self.processes.remove(process)
            if process.tag:
                self.invalidations.append(Invalidation(process.tag, process.began, self.step))
        self.judge()

    def note(self, call: Call[Any]) -> None:
        (tag,) = [tag for tag in self.tags.values() if self.steps.space.tag_index(tag) == call.keys[1]]
        for text in str(call.args[1]).split(","):
            self.registered.setdefault((Key.parse(text), tag), []).append(self.step)

    # --- workers ------------------------------------------------------------------------------------------------------

    @rule(which=WHICH)
    def begin(self, which: int) -> None:
        if not self.broker:
            return
        key, token, opened = self.broker.pop(which % len(self.broker))
        holder = nonce()
        self.step += 1
        begun = self.steps.run(
            self.steps.flights.begin(key, token, opened, 0, 4, holder, nonce(), alone=Alone.IN_PROCESS)
        )
        self.hear()
        if begun.code is Begin.RUN:
            self.running.append(Computation(key, begun, holder, self.step))

    @rule(which=WHICH)
    def finish(self, which: int) -> None:
        if not self.running:
            return
        done = self.running.pop(which % len(self.running))
        self.step += 1
        self.computed[done.holder] = (done.step, self.step)
        call = self.steps.flights.finish(
            done.key, done.begun, done.holder, nonce(),
            success=True, body=result_body(done.holder), expiry_ms=600_000, cost_us=1,
        )  # fmt: skip
        self.steps.run(call)
        self.hear()
        self.judge()

    def hear(self) -> None:
        for push in self.listener.pushes():
            for engine in self.engines:
                if engine.inbox == push.inbox:
                    engine.on_push(f"{push.key} {','.join(push.tokens)}\n".encode() + push.entry)

    # --- losses -------------------------------------------------------------------------------------------------------

    @rule(tag=st.sampled_from(TAGS), directory=SELDOM)
    def lose(self, tag: str, directory: bool) -> None:
        if self.losing == "nothing":
            return
        name = self.tags[tag]
        self.step += 1
        if self.steps.redis.delete(self.steps.space.tag_index(name)):
            self.lost[name].append(self.step)
        if directory and self.losing == "both" and self.steps.redis.delete(self.steps.space.tag_directory(name)):
            self.directory_lost.append(self.step)

    # --- what always holds --------------------------------------------------------------------------------------------

    def judge(self) -> None:
        for submission, started in self.started.items():
            if submission in self.judged or not isinstance(submission.answer, Result):
                continue
            self.judged.add(submission)
            began, finished = self.computed[str(submission.answer.value)]
            for done in self.invalidations:
                if done.ended <= started and began <= done.began and self.covers(done, submission, finished):
                    raise AssertionError(
                        f"{submission.source}: what began at {began} answers who asked at {started}, after {done}"
                    )

    def covers(self, done: Invalidation, submission: Submission, finished: int) -> bool:
        """Tell whether an invalidation is to have reached what was computed, as far as a submission is told it."""
        before = [step for step in self.registered.get((submission.key, done.tag), []) if step <= done.began]
        if not before:
            return False
        if not any(before[-1] < step <= done.ended for step in self.lost[done.tag]):
            return True
        # A directory that was lost while it was computed too is the one loss that nobody can tell.
        unnoticed = any(step < finished for step in self.directory_lost)
        return done.tag in submission.tags and not unnoticed

    def teardown(self) -> None:
        self.listener.close()


@pytest.mark.timeout(60 + 2 * EXAMPLES)
def test_no_invalidation_of_a_tag_is_passed_over_in_any_interleaving(steps: Steps) -> None:
    machine = type("Example", (Tagging,), {"steps": steps})
    profile = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=profile)  # type: ignore[no-untyped-call]
