"""What goes into the next call of a model, and when: over a clock that the test sets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from workers.gathered import Gathered, Waiting
from workers.policies import Batching


def gathered(max_batch_size: int = 3, max_wait_s: float = 5.0) -> Gathered[str]:
    return Gathered(Batching(max_batch_size=max_batch_size, max_wait_s=max_wait_s))


def add(to: Gathered[str], names: Iterable[str], at: float = 0.0, priority: int = 4, **options: float) -> None:
    to.add([Waiting(name, priority, at, **options) for name in names])


def busy(max_batch_size: int = 3, max_wait_s: float = 5.0) -> Gathered[str]:
    """One whose model runs a call."""
    model = gathered(max_batch_size, max_wait_s)
    add(model, "x")
    assert model.start(0.0) == ["x"]
    return model


class TestWhatComesWhileNoCallRuns:
    def test_starts_at_once(self) -> None:
        model = gathered()
        add(model, "a")
        assert model.start(0.0) == ["a"]

    def test_starts_with_all_that_came_with_it(self) -> None:
        model = gathered()
        add(model, "abcd")
        assert model.start(0.0) == ["a", "b", "c"]

    def test_starts_at_once_after_a_call_that_ended_with_nobody_waiting(self) -> None:
        model = busy()
        model.end()
        add(model, "a")
        assert model.start(0.0) == ["a"]

    def test_is_nothing_if_nothing_came(self) -> None:
        assert gathered().start(0.0) == []


class TestWhatComesWhileACallRuns:
    def test_gathers(self) -> None:
        model = busy()
        add(model, "a")
        add(model, "b", 1.0)
        assert model.start(4.9) == []

    def test_starts_when_it_fills_a_batch(self) -> None:
        model = busy()
        add(model, "ab")
        assert model.start(0.0) == []
        add(model, "c")
        assert model.start(0.0) == ["a", "b", "c"]

    def test_starts_when_the_call_ends(self) -> None:
        model = busy()
        add(model, "ab")
        model.end()
        assert model.start(0.0) == ["a", "b"]

    def test_starts_when_one_of_two_calls_ends(self) -> None:
        model = busy()
        add(model, "abc")
        assert model.start(0.0) == ["a", "b", "c"]
        add(model, "d")
        model.end()
        assert model.start(0.0) == ["d"]

    def test_gathers_anew_after_a_call_that_ended_with_nobody_waiting(self) -> None:
        model = busy()
        add(model, "abc")
        model.start(0.0)
        model.end()
        add(model, "d")
        assert model.start(0.0) == []

    def test_starts_when_the_first_of_it_has_waited_long_enough(self) -> None:
        model = busy()
        add(model, "a", 1.0)
        add(model, "b", 3.0)
        assert model.start(5.9) == []
        assert model.start(6.0) == ["a", "b"]

    def test_waits_for_nothing_if_the_model_says_so(self) -> None:
        model = busy(max_wait_s=0)
        add(model, "a", 7.0)
        assert model.start(7.0) == ["a"]

    def test_that_does_not_fit_waits_on(self) -> None:
        model = busy()
        add(model, "abcd")
        assert model.start(0.0) == ["a", "b", "c"]
        assert model.start(4.9) == []
        assert model.start(5.0) == ["d"]


class TestPriority:
    def test_the_highest_go_first_and_equal_ones_as_they_came(self) -> None:
        model = busy()
        add(model, "ab", priority=4)
        add(model, "c", priority=0)
        add(model, "d", priority=9)
        add(model, "e", priority=4)
        assert model.start(0.0) == ["d", "a", "b"]
        model.end()
        assert model.start(0.0) == ["e", "c"]


class TestDeadlines:
    def test_what_is_late_is_taken_by_itself(self) -> None:
        model = busy()
        add(model, "a", deadline_at=1.0)
        add(model, "b")
        assert model.late(0.9) == []
        assert model.late(1.0) == ["a"]
        assert model.late(1.0) == []
        assert model.start(1.0) == []

    def test_to_take_it_is_no_call(self) -> None:
        model = gathered()
        add(model, "a", deadline_at=1.0)
        assert model.late(1.0) == ["a"]
        add(model, "b")
        assert model.start(1.0) == ["b"]

    @pytest.mark.parametrize(("deadline_at", "due_at"), [(float("inf"), 6.0), (2.0, 2.0), (9.0, 6.0)])
    def test_something_is_due_at_the_deadline_or_the_longest_wait(self, deadline_at: float, due_at: float) -> None:
        model = busy()
        add(model, "a", 1.0, deadline_at=deadline_at)
        assert model.due_at("a".__eq__) == due_at
        assert model.due_at("b".__eq__) == float("inf")


def test_what_is_withdrawn_is_not_started() -> None:
    model = busy()
    add(model, "abc")
    assert model.withdraw("ab".__contains__) == 2
    model.end()
    assert model.start(0.0) == ["c"]


class Thing(NamedTuple):
    number: int
    priority: int
    deadline_at: float


class Runs(RuleBasedStateMachine):
    """Any order of coming, starting, ending and time passing."""

    @initialize(size=st.integers(1, 4), max_wait_s=st.sampled_from([0.0, 1.0, 5.0]))
    def begin(self, size: int, max_wait_s: float) -> None:
        self.size, self.max_wait_s = size, max_wait_s
        self.model: Gathered[Thing] = Gathered(Batching(max_batch_size=size, max_wait_s=max_wait_s))
        self.now = 0.0
        self.came: dict[Thing, float] = {}
        self.waiting: list[Thing] = []
        self.started: list[Thing] = []
        self.running = 0
        self.ended_meanwhile = False

    @rule(
        priorities=st.lists(st.integers(0, 9), min_size=1, max_size=6),
        left_s=st.sampled_from([0.5, 3.0, float("inf")]),
    )
    def come(self, priorities: list[int], left_s: float) -> None:
        things = [Thing(len(self.came) + n, priority, self.now + left_s) for n, priority in enumerate(priorities)]
        self.came |= dict.fromkeys(things, self.now)
        self.waiting += things
        self.model.add(Waiting(one, one.priority, self.now, one.deadline_at) for one in things)

    @rule(seconds=st.sampled_from([0.25, 1.0, 7.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.running)
    @rule()
    def end(self) -> None:
        self.running -= 1
        self.ended_meanwhile = bool(self.waiting)
        self.model.end()

    @rule()
    def start(self) -> None:
        late = [one for one in self.waiting if one.deadline_at <= self.now]
        assert self.model.late(self.now) == late
        rest = [one for one in self.waiting if one not in late]
        may_start = bool(rest) and (
            self.running == 0
            or self.ended_meanwhile
            or len(rest) >= self.size
            or self.now - self.came[rest[0]] >= self.max_wait_s
        )
        assert self.model.can_start(self.now) == may_start
        batch = self.model.start(self.now)
        assert len(batch) == (min(self.size, len(rest)) if may_start else 0)
        assert batch == sorted(rest, key=lambda one: (-one.priority, one.number))[: len(batch)]
        self.waiting = [one for one in rest if one not in batch]
        self.started += late + batch
        if batch:
            self.running += 1
            self.ended_meanwhile = False

    @invariant()
    def nothing_is_lost_or_there_twice(self) -> None:
        if hasattr(self, "model"):
            assert [each.thing for each in self.model.waiting] == self.waiting
            assert sorted([*self.started, *self.waiting]) == sorted(self.came)


TestAnyOrder = Runs.TestCase
