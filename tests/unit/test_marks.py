"""Marks of what was published: which calls they come to, and when."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from foreseen.client.marks import Marks
from foreseen.client.submission import Submission
from foreseen.flights import Flights, Kind
from foreseen.keys import Key
from foreseen.outcome import Result
from foreseen.settings import Settings

FLIGHTS = Flights(Settings(namespace="t"))
MOMENT_S = 0.05


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("foreseen.client.marks.time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def marks(clock: Clock) -> Marks:
    del clock
    return Marks(FLIGHTS, most=3)


def submission(number: int) -> Submission:
    return Submission(Key("model", "1", f"{number:040x}"), None, Kind.DETACHED)


def tokens(calls: list[object]) -> list[object]:
    return [call.args[0] for call in calls]  # type: ignore[attr-defined]


def test_a_mark_waits_for_its_moment_and_is_told_once(marks: Marks, clock: Clock) -> None:
    marks.add(submission(1), "one")
    assert marks.due(10) == []
    clock.now += MOMENT_S
    (call,) = marks.due(10)
    assert call == FLIGHTS.published(submission(1).key, "one")
    assert not marks
    assert marks.due(10) == []


def test_an_outcome_makes_it_needless(marks: Marks, clock: Clock) -> None:
    answered, other = submission(1), submission(2)
    marks.add(answered, "one")
    marks.add(other, "two")
    answered.answer = Result(1)
    clock.now += MOMENT_S
    assert tokens(marks.due(10)) == ["two"]
    assert not marks


def test_an_answer_that_was_there_before_does_not(marks: Marks, clock: Clock) -> None:
    """It is of an entry that the flight refreshes."""
    refreshed = submission(1)
    refreshed.answer = Result("old")
    marks.add(refreshed, "one")
    clock.now += MOMENT_S
    assert tokens(marks.due(10)) == ["one"]


def test_it_goes_ahead_of_who_joins_the_flight_and_of_no_others(marks: Marks) -> None:
    marks.add(submission(1), "one")
    marks.add(submission(2), "two")
    assert tokens(marks.due(10, [submission(2), submission(3)])) == ["two"]
    assert tokens(marks.rest()) == ["one"]


def test_no_more_are_told_at_a_time_than_asked_for(marks: Marks, clock: Clock) -> None:
    for number in range(3):
        marks.add(submission(number), str(number))
    clock.now += MOMENT_S
    assert tokens(marks.due(2)) == ["0", "1"]
    assert tokens(marks.due(2)) == ["2"]


def test_the_rest_is_told_however_short_it_has_waited(marks: Marks) -> None:
    marks.add(submission(1), "one")
    assert tokens(marks.rest()) == ["one"]
    assert marks.rest() == []


def test_of_too_many_the_oldest_are_dropped(marks: Marks) -> None:
    for number in range(5):
        marks.add(submission(number), str(number))
    assert tokens(marks.rest()) == ["2", "3", "4"]


def test_the_latest_of_a_key_is_the_one_that_stands(marks: Marks, clock: Clock) -> None:
    for number, token in ((1, "old"), (2, "two"), (1, "new")):
        marks.add(submission(number), token)
        clock.now += 0.01
    clock.now += MOMENT_S
    assert tokens(marks.due(10)) == ["two", "new"]
