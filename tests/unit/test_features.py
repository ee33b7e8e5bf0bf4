"""Features over a cache that says what the test laid out: what is kept, computed here, computed elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from foreseen.canonical import canonicalize
from foreseen.entry import Entry, Kind
from foreseen.errors import DeadlineExceeded, ModelFailed, ModelNotServed, TooManyAttempts, TransientFailure
from foreseen.flights import Call
from foreseen.holding import Begin, Begun, Finish, Finished, HolderFlights
from foreseen.keys import key_of
from foreseen.message import Item, Message
from foreseen.outcome import Result
from foreseen.payload import pack, unpack
from foreseen.settings import Settings
from workers.compute import ANSWERED
from workers.features import Features
from workers.outcomes import Outcomes
from workers.policies import Batching
from workers.run import Delivery, Run
from workers.stage import Stage

SETTINGS = Settings(namespace="t")
RUN = Begun(Begin.RUN, "token", b"generatn", 9)


class Doubled(Stage[Any, Any]):
    name = "doubled"
    version = "1"
    batching = Batching(max_batch_size=2)

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.answer: Callable[[Any], Any] = lambda one: (one, 2 * one)

    def prepare(self, batch: Sequence[Any]) -> list[Any]:
        self.batches.append(list(batch))
        return [self.answer(one) for one in batch]


class Scene:
    """A process whose cache holds entries and says what begin said; what others compute is told by `elsewhere`."""

    def __init__(self) -> None:
        self.stage = Doubled()
        self.flights = HolderFlights(SETTINGS)
        self.entries: dict[str, bytes] = {}
        self.begun: dict[Any, Begun] = {}
        self.elsewhere: Callable[[Any], Any] = lambda _: Result("elsewhere")
        self.trips: list[list[str]] = []
        self.finished: deque[Call[Any]] = deque()
        self.renewed: list[str] = []
        self.held_while: list[str] = []
        self.hits: list[str] = []
        self.left: list[Any] = []
        cache = SimpleNamespace(run=self.run, commands=lambda asked: [b"1"] * len(asked))  # each has a dead letter
        self.runtime: Any = SimpleNamespace(
            settings=SETTINGS, flights=self.flights, spans=None, cache=cache, publisher=None,
            models={"stage.doubled@1": Doubled}, model=lambda _: self.stage, client=lambda: self,
            own_leases=lambda: self,
        )  # fmt: skip
        self.engine = self.table = self

    def key(self, value: Any) -> Any:
        return key_of("stage.doubled", "1", canonicalize(value))

    def keep(self, value: Any, features: Any, kind: Kind = Kind.RESULT) -> None:
        self.entries[self.flights.space.entry(self.key(value))] = Entry(
            kind, b"g" * 8, 1, 0, 0, 0, pack(features)
        ).encode()

    def run(self, calls: Sequence[Call[Any]] | Any) -> Any:
        if not isinstance(calls, list):
            return None  # steps of the client's
        self.trips.append([call.script.name for call in calls])
        return [self.say(call) for call in calls]

    def say(self, call: Call[Any]) -> Any:
        if call.script.name == "peek":
            return self.entries.get(call.keys[1])
        if call.script.name == "finish":
            self.held_while += self.renewed
            self.finished.append(call)
            return Finished(Finish.KEPT)
        (value,) = [value for value in range(-9, 10) if str(self.key(value)) == call.args[0]]
        known = self.flights.space.entry(self.key(value)) in self.entries
        return self.begun.get(value, Begun(Begin.SETTLED) if known else RUN)

    # the client, its engine and its table
    def submit(self, submissions: Any) -> None:
        self.asked = submissions

    def listen(self) -> None:
        pass

    def watch(self, submission: Any, told: Callable[[Any], None]) -> None:
        answer = self.elsewhere(submission)
        if answer is not None:
            submission.answer = answer
            told(answer)

    def leave_soon(self, submissions: Any, answer: Any) -> None:
        del answer
        self.left += submissions

    def count_hit(self, key: Any, entry: bytes) -> None:
        del entry
        self.hits.append(key.digest)

    # leases
    def add(self, holding: Any) -> None:
        self.renewed.append(holding.holder)

    def remove(self, holder: str) -> None:
        self.renewed.remove(holder)

    def of(self, *values: Any, reply_to: str = "") -> list[Any]:
        items = [Item(key_of("m", "1", canonicalize(value)), "t", 1, 0, canonicalize(value)) for value in values]
        delivery = Delivery(Message("m@1", tuple(items), 0, 4, reply_to=reply_to), "holder")
        runs = [Run(delivery, item, RUN) for item in items]
        observer = SimpleNamespace(wanted=lambda places: [True] * len(places), stuck=lambda _: None)
        return Features(self.runtime, Outcomes(self.runtime), Doubled, lambda _: observer).of(runs)  # type: ignore[arg-type]

    def told(self) -> list[tuple[Any, Any]]:
        return [(call.args[1], unpack(call.args[5][4:])) for call in self.finished]  # type: ignore[index]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_is_not_kept_is_computed_in_batches_and_told_in_one_round_trip(scene: Scene) -> None:
    assert scene.of(1, 2, 3) == [[1, 2], [2, 4], [3, 6]]
    assert scene.stage.batches == [[1, 2], [3]]
    assert scene.trips == [["peek", "begin"] * 3, ["finish"] * 3]
    assert scene.told() == [("R", [1, 2]), ("R", [2, 4]), ("R", [3, 6])]


def test_what_is_kept_costs_one_round_trip_and_is_counted(scene: Scene) -> None:
    scene.keep(1, [1, 2])
    scene.keep(2, [2, 4])
    assert scene.of(1, 2) == [[1, 2], [2, 4]]
    assert len(scene.trips) == 1
    assert scene.stage.batches == []
    assert scene.hits == [scene.key(1).digest, scene.key(2).digest]


def test_a_model_is_given_the_same_whether_or_not_it_was_kept(scene: Scene) -> None:
    (computed,) = scene.of(1)
    scene.keep(1, (1, 2))
    (kept,) = scene.of(1)
    assert computed == kept
    assert type(computed) is type(kept) is list  # the stage gave a tuple, which travels as a list


def test_the_lease_is_renewed_until_it_is_told(scene: Scene) -> None:
    scene.of(1)
    assert len(scene.held_while) == 1
    assert scene.renewed == []


def test_the_lease_is_let_go_when_the_computation_ends_the_delivery(scene: Scene) -> None:
    def exhaust(_: Any) -> Any:
        raise MemoryError

    scene.stage.answer = exhaust
    with pytest.raises(MemoryError):
        scene.of(1)
    assert scene.renewed == []


def test_one_input_twice_is_computed_once(scene: Scene) -> None:
    assert scene.of(1, 1) == [[1, 2], [1, 2]]
    assert scene.stage.batches == [[1]]


def test_a_bad_input_fails_alone_and_its_failure_is_kept_for_the_other_models(scene: Scene) -> None:
    scene.stage.answer = lambda one: 1 // one
    bad, good = scene.of(0, 1)
    assert isinstance(bad, ModelFailed)
    assert good == 1
    assert [kind for kind, _ in scene.told()] == ["F", "R"]


def test_a_kept_failure_is_what_the_run_comes_to(scene: Scene) -> None:
    scene.keep(1, ModelFailed("broken").to_wire(), Kind.FAILURE)
    (failure,) = scene.of(1)
    assert isinstance(failure, ModelFailed)


def test_a_failure_that_passes_is_told_at_once_since_the_model_itself_is_tried_again(scene: Scene) -> None:
    scene.stage.answer = lambda _: TransientFailure("busy")
    (failure,) = scene.of(1)
    assert isinstance(failure, TransientFailure)
    assert [kind for kind, _ in scene.told()] == ["F"]


def test_what_another_process_computes_is_waited_for(scene: Scene) -> None:
    scene.begun[1] = Begun(Begin.HELD, "other", lease_left_ms=9000)
    assert scene.of(1, 2) == ["elsewhere", [2, 4]]
    assert scene.stage.batches == [[2]]


def test_who_takes_too_long_elsewhere_is_left_and_not_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.features._FOLLOW_S", 0.01)
    scene.begun[1] = Begun(Begin.HELD, "other", lease_left_ms=9000)
    scene.elsewhere = lambda _: None
    assert scene.of(1) == [[1, 2]]
    assert scene.told() == []
    assert [each.key for each in scene.left] == [scene.key(1)]


def test_who_cannot_be_waited_for_is_computed_here(scene: Scene) -> None:
    scene.begun[1] = Begun(Begin.HELD, "other", lease_left_ms=9000)
    scene.elsewhere = lambda _: ModelNotServed("nobody")
    assert scene.of(1) == [[1, 2]]


@pytest.mark.parametrize("code", [Begin.ALONE, Begin.ISOLATE])
def test_a_suspect_is_computed_without_a_flight(scene: Scene, code: Begin) -> None:
    scene.begun[1] = Begun(code)
    assert scene.of(1) == [[1, 2]]
    assert scene.told() == []


def test_somebody_elses_deadline_is_told_to_them_alone(scene: Scene) -> None:
    scene.begun[1] = Begun(Begin.EXPIRED, "token", b"generatn", 9)
    assert scene.of(1) == [[1, 2]]
    ((kind, failure),) = scene.told()
    assert (kind, failure["name"]) == ("F", DeadlineExceeded.__name__)


def test_an_input_that_was_tried_too_often_is_not_tried_here(scene: Scene) -> None:
    scene.begun[1] = Begun(Begin.EXHAUSTED, "token", b"generatn", 9, deaths=3, last_death="signal 9")
    (failure,) = scene.of(1)
    assert isinstance(failure, TooManyAttempts)
    assert scene.stage.batches == []


def test_an_entry_that_cannot_be_read_is_left_to_a_look_up_that_removes_it(scene: Scene) -> None:
    scene.keep(1, [1, 2])
    scene.entries = {name: entry[:-1] for name, entry in scene.entries.items()}
    assert scene.of(1) == ["elsewhere"]
    assert scene.hits == []


def test_without_the_cache_nothing_is_looked_up(scene: Scene) -> None:
    assert scene.of(1, reply_to="t.replies.0") == [[1, 2]]
    assert scene.trips == []


def test_a_call_that_is_stuck_is_answered_for_as_a_whole(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.features.compute", lambda *_: [ANSWERED])
    assert scene.of(1) == [ANSWERED]
    assert scene.told() == []


def test_a_stage_that_could_not_be_loaded_fails_what_needs_it(scene: Scene) -> None:
    scene.stage = ModelFailed("no table", {"stage": "load"})  # type: ignore[assignment]
    (failure,) = scene.of(1)
    assert failure.message == "no table"


class TestApart:
    @pytest.fixture(autouse=True)
    def _apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Doubled, "apart", True)

    def test_what_the_stage_s_own_workers_have_computed_is_read(self, scene: Scene) -> None:
        scene.keep(1, [1, 2])
        assert scene.of(1) == [[1, 2]]
        assert scene.trips == [["peek"]]

    def test_what_is_not_kept_after_all_is_computed_here_and_begun_by_nobody(self, scene: Scene) -> None:
        assert scene.of(1) == [[1, 2]]
        assert scene.trips == [["peek"]]
        assert scene.told() == []
