"""The near cache beside a model of server, connection and look-ups that arrive in any order: what it answers is true.

The model knows when each entry ceased to be the current one. An answer may be of an entry that has, by a second; and
must never be of one past its time, of another key, or from before a change that this producer made or heard of.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from foreseen.canonical import canonicalize
from foreseen.client.near import Near
from foreseen.entry import Entry, Kind
from foreseen.keys import Key, KeySpace
from foreseen.outcome import Result
from foreseen.payload import pack

SPACE = KeySpace("t")
#: Two buckets, of which one has two keys; the inputs are what they would be asked for with.
INPUTS = {"a": "00", "b": "00", "c": "01"}
KEYS = {data: Key("model", "1", bucket + data * 38) for data, bucket in INPUTS.items()}
STALENESS_S = 1.0

inputs = st.sampled_from(sorted(INPUTS))
#: Ticks of an eighth of a second: exact, and some of them just a second.
spans_s = st.sampled_from([0.125, 0.5, 0.875, 1.0, 3.0])
lives_s = st.sampled_from([0.5, 3.0, 60.0])


class Written(NamedTuple):
    """An entry of the model's server."""

    value: int
    until_s: float  # by the server's clock


class Landing(NamedTuple):
    """A look-up's answer on its way."""

    mark: int
    data: str
    found: Written | None


class NearMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.near = Near(SPACE, 6000, lambda: self.now)
        self.values = 0
        self.current: dict[str, Written] = {}
        self.ceased: dict[int, float] = {}  # when a value ceased to be current; missing while it is
        self.key_of: dict[int, str] = {}
        self.until_s: dict[int, float] = {}  # by the server's clock
        self.forbidden: set[int] = set()  # values that this producer has made, or heard, to be gone
        self.in_the_air: list[Landing] = []
        self.stream: deque[tuple[Any, ...]] | None = None  # from the server to this producer; None: no connection
        self.pings: deque[float] = deque()  # on their way to the server

    @initialize(ahead_s=st.sampled_from([0.0, 1e9, -50.0]))
    def start(self, ahead_s: float) -> None:
        self.ahead_s = ahead_s
        self.connect()
        self.beat()

    @property
    def server_s(self) -> float:
        return self.now + self.ahead_s

    # --- the server ---------------------------------------------------------------------------------------------------

    @rule(data=inputs, life_s=lives_s)
    def write(self, data: str, life_s: float) -> None:
        self.cease(data)
        self.values += 1
        self.key_of[self.values] = data
        self.until_s[self.values] = self.server_s + life_s
        self.current[data] = Written(self.values, self.until_s[self.values])
        self.tell("changed", SPACE.entry(KEYS[data]))

    @rule(bucket=st.sampled_from(["00", "01"]))
    def purge(self, bucket: str) -> None:
        for data in self.of_bucket(bucket):
            self.cease(data)
        self.tell("changed", SPACE.generation_of("model@1", bucket))

    @rule()
    def flush(self) -> None:
        for data in list(self.current):
            self.cease(data)
        self.tell("flushed")

    @rule(data=inputs)
    def expire(self, data: str) -> None:
        """The server looks for what has expired when it likes."""
        if data in self.current and self.server_s >= self.current[data].until_s:
            self.cease(data)
            self.tell("changed", SPACE.entry(KEYS[data]))

    @rule()
    def answer_ping(self) -> None:
        if self.pings and self.stream is not None:
            self.tell("pong", self.pings.popleft(), self.server_s)

    @rule(for_s=spans_s)
    def wait(self, for_s: float) -> None:
        self.now += for_s

    # --- the connection -----------------------------------------------------------------------------------------------

    @rule()
    def connect(self) -> None:
        if self.stream is None:
            self.stream = deque()
            self.tell("confirmed")

    @rule()
    def lose(self) -> None:
        if self.stream is not None:
            self.stream = None
            self.pings.clear()
            self.near.lost()

    @precondition(lambda self: self.stream is not None)
    @rule()
    def ping(self) -> None:
        self.pings.append(self.now)

    @rule()
    def beat(self) -> None:
        """A ping is sent and answered, and all that came is heard."""
        if self.stream is not None:
            self.ping()
            while self.pings:
                self.answer_ping()
            self.hear(len(self.stream))

    @rule(n_messages=st.integers(1, 5))
    def hear(self, n_messages: int) -> None:
        for _ in range(n_messages):
            if not self.stream:
                return
            gone, *message = self.stream.popleft()
            self.forbidden |= gone  # what is heard is seen at once
            match message:
                case ["confirmed"]:
                    self.near.tracked()
                case ["pong", sent_at, server_s]:
                    self.near.answered(sent_at, server_s)
                case ["flushed"]:
                    self.near.emptied()
                case ["changed", name]:
                    self.near.invalidated([name])

    # --- this producer ------------------------------------------------------------------------------------------------

    @rule(data=inputs)
    def look_up(self, data: str) -> None:
        """The server answers a look-up some time between its being sent and its landing: here at once, or below."""
        self.in_the_air.append(Landing(self.near.sent(), data, self.readable(data)))

    @rule(data=inputs, change=st.sampled_from(["write", "purge", "flush", "lose", "invalidate"]), hears=st.booleans())
    def race(self, data: str, change: str, hears: bool) -> None:
        """Something happens while a look-up is in the air, which lands before or after that is heard."""
        if self.readable(data) is None:
            self.write(data, 60.0)
        self.beat()
        self.look_up(data)
        match change:
            case "write":
                self.write(data, 60.0)
            case "purge":
                self.purge(INPUTS[data])
            case "flush":
                self.flush()
            case "lose":
                self.lose()
                self.write(data, 60.0)
                self.connect()
            case _:
                self.invalidate(data)
        if hears:
            self.beat()
        self.land(backwards=False)

    @rule(data=inputs, for_s=spans_s, pings=st.booleans())
    def hear_nothing(self, data: str, for_s: float, pings: bool) -> None:
        """Something happens and is not heard for a while, or an answer to a ping is very late."""
        self.fetch(data, 60.0)
        if pings and self.stream is not None:
            self.ping()
            self.answer_ping()
        self.write(data, 60.0)
        self.wait(for_s)
        if pings:
            self.hear(1)

    @rule(data=inputs, life_s=lives_s)
    def fetch(self, data: str, life_s: float) -> None:
        """What is written is heard, looked up and kept, all at once."""
        self.write(data, life_s)
        self.beat()
        self.look_up(data)
        self.keep(self.in_the_air.pop())

    @rule(which=st.integers(0, 9))
    def answer_late(self, which: int) -> None:
        if self.in_the_air:
            index = which % len(self.in_the_air)
            each = self.in_the_air[index]
            self.in_the_air[index] = each._replace(found=self.readable(each.data))

    @rule(backwards=st.booleans())
    def land(self, backwards: bool) -> None:
        for each in reversed(self.in_the_air) if backwards else self.in_the_air:
            self.keep(each)
        self.in_the_air.clear()

    def keep(self, each: Landing) -> None:
        if each.found is not None:
            until_ms = round(each.found.until_s * 1000)
            entry = Entry(Kind.RESULT, b"generatn", 1, 0, until_ms, 1, pack(each.found.value))
            self.near.insert(each.mark, KEYS[each.data], canonicalize(each.data), entry, entry.outcome())

    @rule(data=inputs)
    def invalidate(self, data: str) -> None:
        """This producer's own: seen by itself at once."""
        self.forbid([data])
        self.cease(data)
        self.tell("changed", SPACE.entry(KEYS[data]))
        self.near.invalidated([SPACE.entry(KEYS[data])])

    @rule(bucket=st.sampled_from(["00", "01"]))
    def purge_here(self, bucket: str) -> None:
        self.forbid(self.of_bucket(bucket))
        self.purge(bucket)
        self.near.invalidated([SPACE.generation_of("model@1", bucket)])

    @invariant()
    def what_it_answers_is_true(self) -> None:
        for data, key in KEYS.items():
            for outcome in (self.near.look(("model", "1"), data), self.near.find(key)):
                if outcome is None:
                    continue
                assert isinstance(outcome, Result)
                value = outcome.value
                assert self.key_of[value] == data
                assert value not in self.forbidden
                assert self.now - self.ceased.get(value, math.inf) < STALENESS_S
                assert self.server_s < self.until_s[value]

    @invariant()
    def is_bounded(self) -> None:
        told = self.near.told()
        assert told.bytes <= 6000
        assert told.entries == 0 or self.stream is not None

    # --- the model ----------------------------------------------------------------------------------------------------

    def readable(self, data: str) -> Written | None:
        found = self.current.get(data)
        return found if found is not None and self.server_s < found.until_s else None

    def of_bucket(self, bucket: str) -> list[str]:
        return [data for data in self.current if INPUTS[data] == bucket]

    def forbid(self, of: list[str]) -> None:
        self.forbidden |= {value for value, data in self.key_of.items() if data in of}

    def cease(self, data: str) -> None:
        if data in self.current:
            self.ceased[self.current.pop(data).value] = self.now

    def tell(self, *message: Any) -> None:
        if self.stream is not None:
            self.stream.append((frozenset(self.ceased), *message))


TestNear = NearMachine.TestCase
TestNear.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
