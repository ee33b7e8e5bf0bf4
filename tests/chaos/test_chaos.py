"""A short run, as `make chaos` is a long one; and a checker that finds what it is there to find."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # test folders are no packages: see acceptance/conftest.py

from served.stamped import answer_to

from chaos.__main__ import Chaos
from chaos.checker import Verdict, check
from chaos.faults import Fault

pytestmark = pytest.mark.chaos

CLEAN: dict[str, list[str]] = {"lost": [], "wrong": [], "twice": [], "hung": [], "overlapping": []}


@pytest.mark.timeout(240)
def test_nothing_is_lost_wrong_twice_hung_or_computed_twice_at_once(tmp_path: Path) -> None:
    verdict, faults = Chaos(seconds=15, seed=7, directory=tmp_path).run()
    assert verdict.violations == CLEAN, [fault.name for fault in faults]
    assert len(faults) >= 5
    assert sum(verdict.requests.values()) >= 1000


class Story:
    """A history and a record, line by line."""

    def __init__(self, directory: Path) -> None:
        self._history, self._record = directory / "history", directory / "record"
        self._history.touch()
        self._record.touch()

    def note(self, what: str, name: str = "1-1", at: float = 100.0, **more: Any) -> Story:
        with self._history.open("a") as file:
            file.write(json.dumps({"what": what, "name": name, "at": at, **more}) + "\n")
        return self

    def asked(self, kind: str = "predict", name: str = "1-1", number: int = 5, at: float = 100.0) -> Story:
        return self.note("asked", name, at, kind=kind, number=number)

    def told(self, name: str = "1-1", number: int = 5, **more: Any) -> Story:
        return self.note("told", name, 101.0, **(more or {"answer": answer_to(number, "s"), "stamp": "s"}))

    def computed(self, began: float, ended: float, pid: int = 7, number: int = 5) -> Story:
        stamp = f"{pid}-{began}"
        rows = [{"what": "begin", "at": began}, {"what": "end", "at": ended}]
        with self._record.open("a") as file:
            for row in rows:
                file.write(json.dumps({**row, "number": number, "stamp": stamp, "pid": pid}) + "\n")
        return self

    def check(self, *faults: Fault, killed: set[str] | None = None) -> Verdict:
        return check([self._history], self._record, faults, killed or set(), slack_s=2.0)

    def found(self, *faults: Fault, killed: set[str] | None = None) -> list[str]:
        return [name for name, found in self.check(*faults, killed=killed).violations.items() if found]


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


class TestChecker:
    def test_a_clean_story_is_clean(self, story: Story) -> None:
        assert story.asked().computed(100.1, 100.2).told().found() == []

    def test_another_input_s_answer_is_wrong(self, story: Story) -> None:
        assert story.asked(number=5).told(number=6).found() == ["wrong"]

    def test_an_error_that_no_rule_allows_is_wrong(self, story: Story) -> None:
        assert story.asked().told(error="ModelFailed", message="?").found() == ["wrong"]

    def test_a_server_that_is_away_may_be_told_of(self, story: Story) -> None:
        assert story.asked().told(error="CacheUnavailable", message="away").found() == []

    def test_who_is_never_told_hangs_unless_he_was_killed(self, story: Story) -> None:
        story.asked(name="77-1")
        assert story.found() == ["hung"]
        assert story.found(killed={"77"}) == []

    def test_running_out_of_time_is_hanging_unless_one_was_in_haste(self, story: Story) -> None:
        story.asked("hasty", "1-1").told("1-1", error="PredictionTimeout", message="late")
        assert story.found() == []
        story.asked("predict", "1-2").told("1-2", error="PredictionTimeout", message="late")
        assert story.found() == ["hung"]

    @pytest.mark.parametrize("what", ["told", "called"])
    def test_twice_is_once_too_often(self, story: Story, what: str) -> None:
        story.asked().told()
        for _ in range(1 if what == "told" else 2):
            story.note(what)
        assert story.found() == ["twice"]

    def test_what_was_acknowledged_and_not_computed_since_is_lost(self, story: Story) -> None:
        story.asked("detached").note("submitted", source="computed", at=100.0).told(number=5).computed(90.0, 91.0)
        assert story.found() == ["lost"]
        assert story.computed(100.5, 101.0).found() == []

    def test_a_hit_needs_no_computation(self, story: Story) -> None:
        assert story.asked("detached").note("submitted", source="hit").told().found() == []

    def test_two_at_once_overlap(self, story: Story) -> None:
        assert story.computed(100.0, 101.0, pid=7).computed(100.5, 101.5, pid=8).found() == ["overlapping"]

    @pytest.mark.parametrize(
        "fault",
        [Fault("killed", 100.2, 100.3, pids=(7,)), Fault("flushed", 100.2, 100.3, loses=True)],
        ids=lambda fault: fault.name,
    )
    def test_a_fault_that_hit_the_first_allows_the_second(self, story: Story, fault: Fault) -> None:
        verdict = story.computed(100.0, 101.0, pid=7).computed(100.5, 101.5, pid=8).check(fault)
        assert verdict.violations == CLEAN
        assert verdict.repeated == 1

    def test_a_fault_that_hit_another_does_not(self, story: Story) -> None:
        story.computed(100.0, 101.0, pid=7).computed(100.5, 101.5, pid=8)
        assert story.found(Fault("killed", 100.2, 100.3, pids=(9,))) == ["overlapping"]

    def test_an_invalidation_between_them_allows_it(self, story: Story) -> None:
        story.computed(100.0, 101.0, pid=7).computed(100.5, 101.5, pid=8)
        story.asked("invalidate", at=100.2).told(name="1-1", answer=answer_to(5, "s"), stamp="s")
        assert story.found() == []
