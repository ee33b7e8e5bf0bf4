"""A short run, as `make chaos` is a long one; and a checker that finds what it is there to find."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # test folders are no packages: see acceptance/conftest.py

from served.stamped import answer_to

from chaos.__main__ import Chaos
from chaos.checker import Verdict, check
from chaos.faults import Fault
from chaos.proxy import Proxy
from chaos.recovery import COMPUTE_S, LEASE_S, recover
from chaos.rolling import BEFORE, HERE, Rolling, release_of
from foreseen.embedded import EmbeddedServer

pytestmark = pytest.mark.chaos

CLEAN: dict[str, list[str]] = {"lost": [], "wrong": [], "twice": [], "hung": [], "overlapping": []}


@pytest.mark.timeout(300)
def test_nothing_is_lost_wrong_twice_hung_or_computed_twice_at_once(tmp_path: Path) -> None:
    chaos = Chaos(seconds=15, seed=7, directory=tmp_path)
    verdict, faults = chaos.run()
    assert verdict.violations == CLEAN, [fault.name for fault in faults]
    assert {fault.name for fault in faults} >= chaos.kinds
    assert sum(verdict.requests.values()) >= 1000


@pytest.mark.timeout(300)
def test_workers_before_producers_are_replaced_by_another_release_s(tmp_path: Path) -> None:
    try:
        earlier = release_of(BEFORE, tmp_path)
    except LookupError as error:
        pytest.skip(f"there is no earlier release to begin with: {error}")
    verdict = Rolling(tmp_path, dwell_s=1.0, seed=7).run(earlier, HERE, ("workers", "producers"))
    assert verdict.violations == CLEAN
    assert sum(verdict.requests.values()) >= 1000
    assert verdict.outcomes["answered"] > 0.9 * sum(verdict.requests.values())


@pytest.mark.timeout(180)
def test_who_waits_for_what_a_killed_worker_computed_is_answered(tmp_path: Path) -> None:
    """`make chaos ARGS="--recovery"` in short; how soon, on a machine that does other things too, only it can say."""
    waits = recover(tmp_path, kills=2, seed=7)
    assert len(waits) == 2
    assert min(waits) > COMPUTE_S
    assert min(waits) > LEASE_S / 2  # nobody begins it anew under a live lease


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

    def answered_from(self, flight: str, name: str, stamp: str, number: int = 5) -> Story:
        return self.told(name, flight=flight, answer=answer_to(number, stamp), stamp=stamp)

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

    def test_an_answer_torn_between_two_computations_is_wrong(self, story: Story) -> None:
        assert story.asked().told(answer=answer_to(5, "one"), stamp="another").found() == ["wrong"]

    def test_two_computations_told_of_one_flight_are_wrong(self, story: Story) -> None:
        story.asked("submit", "1-1").answered_from("flight", "1-1", "one")
        story.asked("submit", "1-2").answered_from("flight", "1-2", "one")
        assert story.found() == []
        assert story.check().flights == 1
        story.asked("submit", "1-3").answered_from("flight", "1-3", "another")
        assert story.found() == ["wrong"]

    def test_two_computations_of_two_flights_are_not(self, story: Story) -> None:
        story.asked("submit", "1-1").answered_from("flight", "1-1", "one")
        story.asked("submit", "1-2").answered_from("next flight", "1-2", "another")
        assert story.found() == []

    def test_who_missed_a_push_may_find_a_later_entry(self, story: Story) -> None:
        story.asked("submit", "1-1").answered_from("flight", "1-1", "one")
        story.asked("submit", "1-2").answered_from("flight", "1-2", "another")
        assert story.found(Fault("cut", 100.2, 100.3)) == []
        assert story.found(Fault("cut, long before", 50.2, 50.3)) == ["wrong"]

    @pytest.mark.parametrize("kind", ["invalidate", "purge"])
    def test_what_was_forgotten_is_not_told_again(self, story: Story, kind: str) -> None:
        number = 5 if kind == "invalidate" else 6
        story.computed(90.0, 91.0).asked(kind, "1-1", number, at=95.0).note("told", "1-1", at=96.0)
        story.asked("predict", "1-2", at=95.5).answered_from("", "1-2", "7-90.0")
        assert story.found() == [], "it was not forgotten yet"
        story.asked("predict", "1-3", at=97.0).answered_from("", "1-3", "7-90.0")
        assert story.found() == ["wrong"]
        verdict = story.check(Fault("another took its place", 95.5, 99.0, loses=True, reverts=True))
        assert (verdict.violations, verdict.reverted) == (CLEAN, 1)
        assert story.found(Fault("long before", 80.0, 85.0, loses=True, reverts=True)) == ["wrong"]

    def test_what_was_computed_since_is(self, story: Story) -> None:
        story.asked("invalidate", "1-1", at=95.0).note("told", "1-1", at=96.0).computed(95.5, 96.5)
        assert story.asked("predict", "1-2", at=97.0).answered_from("", "1-2", "7-95.5").found() == []

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

    def test_what_went_with_the_broker_s_data_is_counted_apart(self, story: Story) -> None:
        story.asked("detached").note("submitted", source="computed", at=100.0).told(number=5).computed(90.0, 91.0)
        verdict = story.check(Fault("restarted empty", 105.0, 105.2, inputs=frozenset({5})))
        assert (verdict.violations, verdict.gone) == (CLEAN, 1)

    def test_what_came_to_the_broker_as_it_died_may_be_gone_too(self, story: Story) -> None:
        story.asked("detached").note("submitted", source="computed", at=100.0).told(number=5)
        assert story.found(Fault("restarted empty", 99.9, 100.1, inputs=frozenset())) == []

    @pytest.mark.parametrize(
        "fault",
        [
            Fault("another's message", 105.0, 105.2, inputs=frozenset({6})),
            Fault("before it was submitted", 80.0, 80.2, inputs=frozenset({5})),
            Fault("the cache's data", 100.0, 100.2, loses=True),
        ],
        ids=lambda fault: fault.name,
    )
    def test_no_other_fault_explains_a_loss(self, story: Story, fault: Fault) -> None:
        story.asked("detached").note("submitted", source="computed", at=100.0).told(number=5).computed(90.0, 91.0)
        assert story.found(fault) == ["lost"]

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


class TestProxy:
    @pytest.fixture
    def proxy(self, server: EmbeddedServer) -> Iterator[Proxy]:
        with Proxy(server.port, seed=1) as proxy:
            yield proxy

    @staticmethod
    @contextmanager
    def _connect(proxy: Proxy) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100) == b"+PONG\r\n"
            yield connection

    def test_a_half_open_connection_swallows_and_is_reset_at_the_end(self, proxy: Proxy) -> None:
        with self._connect(proxy) as connection:
            proxy.swallow(0.5, also_new=False)
            with self._connect(proxy):  # a new one works: the proxy has done what was asked before
                connection.sendall(b"PING\r\n")
                with pytest.raises(ConnectionResetError):
                    connection.recv(100)

    def test_new_ones_may_be_half_open_too(self, proxy: Proxy) -> None:
        proxy.swallow(0.5, also_new=True)
        with pytest.raises(ConnectionResetError), self._connect(proxy):
            pass

    def test_what_is_delayed_arrives_late(self, proxy: Proxy) -> None:
        proxy.delay(0.1, 0.1, for_s=60)
        began = time.monotonic()
        with self._connect(proxy):
            assert time.monotonic() - began >= 0.2

    def test_a_server_that_is_away_refuses(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        with Proxy(port, seed=1) as proxy, pytest.raises(ConnectionResetError), self._connect(proxy):
            pass
