"""Ensembles that wait, over a client whose members answer as the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from foreseen.canonical import canonicalize
from foreseen.entry import payload_of
from foreseen.errors import (
    CacheUnavailable,
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    ModelNotServed,
    PredictionFailed,
    PredictionTimeout,
    QueueFull,
)
from foreseen.flights import Call
from foreseen.holding import Begin, Begun, Finish, Finished, HolderFlights
from foreseen.keys import key_of
from foreseen.message import Item, Message
from foreseen.outcome import Failure, Result
from foreseen.payload import unpack
from foreseen.settings import Settings
from workers.combine import Combiner, FirstGood, Mean
from workers.ensemble import Ensemble, Pinned
from workers.model import Model
from workers.policies import CachePolicy
from workers.run import LATE, Delivery, Run
from workers.stage import Stage
from workers.waiting import Waiting

SETTINGS = Settings(namespace="t", reply_timeout_s=5)
DEADLINE_S = 10.0


class Pair(Ensemble[Any, Any]):
    name = "pair"
    version = "1"
    members = ("a", "b")
    cache = CachePolicy(expiry_s=100, jitter=0)
    member_timeout_s = 30.0
    pinned = {"a": Pinned("a", "1"), "b": Pinned("b", "2")}  # noqa: RUF012 - as it is declared


class Half(Pair):
    name = "half"
    quorum = 1
    partial_expiry_s = 2.0


class Apart(Stage[int, list[int]]):
    name = "apart"
    version = "3"
    apart = True
    timeout_s = 30.0

    def prepare(self, batch: Sequence[int]) -> list[list[int]]:
        return [[one] for one in batch]


class Over(Model[list[int], int]):
    name = "over"
    version = "1"
    preprocess = Apart

    def predict(self, batch: Sequence[list[int]]) -> list[int]:
        return [one for (one,) in batch]


class Scene:
    """A process of a worker: its client asks `members`; what they do not answer at once, the test tells later."""

    def __init__(self, model: type[Model[Any, Any]]) -> None:
        self.model = model
        self.flights = HolderFlights(SETTINGS)
        self.members: Callable[[Any], Any] = lambda _: None
        self.asked: list[Any] = []
        self.open: dict[str, tuple[Any, Callable[[Any], None]]] = {}
        self.left: list[str] = []
        self.away: Exception | None = None
        self.finished: list[tuple[Any, Any, Any]] = []
        self.says = Finished(Finish.KEPT)
        self.given_up: list[Any] = []
        self.sent: list[Message] = []
        self.told = threading.Semaphore(0)
        self.held: dict[str, Any] = {}
        self.runtime: Any = SimpleNamespace(
            settings=SETTINGS, flights=self.flights, spans=None,
            models={model.model_id(): model}, model=lambda _: model(),
            cache=SimpleNamespace(run=self._run), publisher=SimpleNamespace(publish=self._publish),
            client=lambda: self, own_leases=lambda: self,
        )  # fmt: skip
        self.engine = self.table = self
        self.waiting = Waiting(self.runtime)

    def runs(self, *values: Any, holder: str = "h1", deadline_at: float = float("inf")) -> list[Run]:
        name, version = self.model.name, self.model.version
        items = [Item(key_of(name, version, canonicalize(one)), f"t{one}", 1, 0, canonicalize(one)) for one in values]
        delivery = Delivery(Message(self.model.model_id(), tuple(items), 0, 6), holder)
        begun = Begun(Begin.RUN, "t", b"generatn", 9)
        return [Run(delivery, item, begun, deadline_at=deadline_at) for item in items]

    def answer(self, member: str, answer: Any) -> None:
        submission, told = self.open.pop(member)
        submission.answer = answer
        told(answer)

    def wait(self) -> None:
        assert self.told.acquire(timeout=DEADLINE_S)

    # the cache and the broker
    def _run(self, calls: Sequence[Call[Any]]) -> list[Any]:
        replies: list[Any] = []
        for call in calls:
            if call.script.name == "finish":
                self.finished.append((call.args[1], unpack(payload_of(call.args[5])), call.args[6]))  # type: ignore[arg-type]
                replies.append(self.says)
            else:
                assert call.script.name == "give_up"
                self.given_up.append(call.args)
                replies.append(True)
        return replies

    def _publish(self, messages: Sequence[Message]) -> list[Message]:
        self.sent += messages
        return []

    # the client, its engine and its table
    def run(self, submissions: Sequence[Any]) -> None:
        if self.away is not None:
            raise self.away
        for each in submissions:
            self.asked.append(each)
            each.answer = self.members(each)

    def submit_mixed(self, submissions: Sequence[Any]) -> Sequence[Any]:
        return submissions

    def canonical(self, value: Any) -> Any:
        return canonicalize(value)

    def listen(self) -> None:
        pass

    def watch(self, submission: Any, told: Callable[[Any], None]) -> None:
        if submission.answer is not None:
            told(submission.answer)
        else:
            self.open[submission.key.model] = (submission, told)

    def leave_soon(self, submissions: Sequence[Any], answer: Any) -> None:
        assert isinstance(answer, PredictionTimeout)
        self.left += [each.key.model for each in submissions]

    # leases; the last thing that becomes of an ensemble
    def add(self, holding: Any) -> None:
        assert holding.waits
        self.held[holding.holder] = list(holding.keys)

    def remove(self, holder: str) -> None:
        self.held.pop(holder, None)
        self.told.release()


@pytest.fixture
def scenes() -> Iterator[Callable[[type[Model[Any, Any]]], Scene]]:
    made: list[Scene] = []

    def make(model: type[Model[Any, Any]]) -> Scene:
        made.append(Scene(model))
        return made[-1]

    yield make
    for scene in made:
        scene.away = None
        scene.waiting.close()


@pytest.fixture
def scene(scenes: Callable[[type[Model[Any, Any]]], Scene]) -> Scene:
    return scenes(Pair)


def test_what_is_answered_at_once_does_not_wait(scene: Scene) -> None:
    scene.members = lambda each: Result(3 if each.key.model == "a" else 5)
    (run,) = scene.runs(1)
    assert scene.waiting.ask([run]) == []
    assert run.outcome == {"answer": 4.0, "members": ["a@1", "b@2"], "missing": {}}
    assert run.kept_s == float("inf")
    assert scene.held == {}
    assert scene.finished == []  # whoever has asked tells it


def test_members_are_asked_about_the_same_input_in_one_go_with_priority_and_deadline(scene: Scene) -> None:
    scene.waiting.ask(scene.runs(1, 2, deadline_at=float("inf")))
    assert [(each.key.model_id, each.canonical.text) for each in scene.asked] == [
        ("a@1", b"1"), ("b@2", b"1"), ("a@1", b"2"), ("b@2", b"2"),
    ]  # fmt: skip
    assert {each.priority for each in scene.asked} == {6}
    assert {each.deadline_at for each in scene.asked} == {None}


def test_the_rest_is_told_here_when_the_last_has_answered_and_its_lease_is_renewed_until_then(scene: Scene) -> None:
    (run,) = scene.runs(1)
    assert scene.waiting.ask([run]) == [run]
    assert scene.held == {"h1": [run.item.key]}
    scene.answer("a", Result(1))
    scene.answer("b", Result(2))
    scene.wait()
    assert scene.finished == [("R", {"answer": 1.5, "members": ["a@1", "b@2"], "missing": {}}, 100_000)]
    assert scene.held == {}


def test_of_a_delivery_what_still_waits_is_renewed_and_no_more(scene: Scene) -> None:
    first, second = scene.runs(1, 2)
    scene.members = lambda each: Result(1) if each.canonical.text == b"1" else None
    assert scene.waiting.ask([first, second]) == [second]
    assert scene.held == {"h1": [second.item.key]}


def test_with_a_member_missing_it_is_kept_for_a_short_time(
    scenes: Callable[[type[Model[Any, Any]]], Scene],
) -> None:
    scene = scenes(Half)
    scene.waiting.ask(scene.runs(1))
    scene.answer("a", Failure(ModelFailed("broken")))
    scene.answer("b", Result(2))
    scene.wait()
    ((_, output, kept_ms),) = scene.finished
    assert output == {"answer": 2.0, "members": ["b@2"], "missing": {"a@1": "ModelFailed: broken"}}
    assert kept_ms == 2000


def test_without_a_quorum_it_fails_at_once_and_leaves_the_others(scene: Scene) -> None:
    scene.waiting.ask(scene.runs(1))
    scene.answer("a", Failure(ModelFailed("broken")))
    scene.wait()
    ((kind, failure, _),) = scene.finished
    assert (kind, failure["name"]) == ("F", "TooFewMembers")
    assert failure["details"] == {"missing": {"a@1": "ModelFailed: broken"}}
    assert scene.left == ["b"]


def test_a_member_that_was_too_late_has_it_begun_again_by_whoever_comes_with_a_later_deadline(scene: Scene) -> None:
    (run,) = scene.runs(1)
    scene.waiting.ask([run])
    scene.answer("a", Failure(DeadlineExceeded("late")))
    scene.wait()
    assert scene.finished == []
    assert len(scene.given_up) == 1
    ((sent,),) = ([message.items for message in scene.sent],)
    assert sent == (run.item,)


def test_a_member_that_is_late_at_once_is_late_for_whoever_has_asked(scene: Scene) -> None:
    scene.members = lambda _: Failure(DeadlineExceeded("late"))
    (run,) = scene.runs(1)
    assert scene.waiting.ask([run]) == []
    assert run.outcome is LATE


def test_a_member_that_does_not_answer_in_time_is_left(
    scenes: Callable[[type[Model[Any, Any]]], Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Half, "member_timeout_s", 0.01)
    scene = scenes(Half)
    scene.members = lambda each: Result(1) if each.key.model == "a" else None
    scene.waiting.ask(scene.runs(1))
    scene.wait()
    ((_, output, _),) = scene.finished
    assert output["missing"] == {"b@2": "no answer within 0.01 s"}
    assert scene.left == ["b"]


@pytest.mark.parametrize("error", [ModelNotServed("nobody"), QueueFull("full"), CacheUnavailable("away")])
def test_who_could_not_be_asked_is_asked_again(scene: Scene, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr("workers.vote.AGAIN_S", 0.01)
    refusals = iter([error])
    scene.members = lambda each: Result(1) if each.key.model == "a" else next(refusals, Result(3))
    (run,) = scene.runs(1)
    assert scene.waiting.ask([run]) == [run]
    scene.wait()
    ((kind, output, _),) = scene.finished
    assert (kind, output["answer"]) == ("R", 2.0)
    assert [each.key.model for each in scene.asked] == ["a", "b", "b"]


def test_who_cannot_be_asked_at_all_has_failed(scene: Scene) -> None:
    scene.members = lambda _: InvalidInput("does not fit a@1")
    (run,) = scene.runs(1)
    scene.waiting.ask([run])
    assert isinstance(run.outcome, PredictionFailed)
    assert "InvalidInput: does not fit" in run.outcome.message


def test_while_the_cache_is_away_nothing_is_left_behind_of_what_was_asked(
    scenes: Callable[[type[Model[Any, Any]]], Scene],
) -> None:
    class InTurn(Pair):
        name = "in-turn"
        combine = FirstGood()

    scene = scenes(InTurn)
    first, second = scene.runs(1, 2)

    def answer(each: Any) -> Any:
        if each.canonical.text == b"1":
            scene.away = CacheUnavailable("away")
            return Result(0.1)  # so that the next is to be asked
        return None

    scene.members = answer
    with pytest.raises(CacheUnavailable):
        scene.waiting.ask([second, first])
    assert scene.left == ["a"]
    assert scene.held == {}


def test_a_cache_that_goes_away_between_two_members_is_asked_again(
    scenes: Callable[[type[Model[Any, Any]]], Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.vote.AGAIN_S", 0.01)

    class InTurn(Pair):
        name = "in-turn"
        combine = FirstGood()

    scene = scenes(InTurn)
    scene.waiting.ask(scene.runs(1))
    errors = iter([CacheUnavailable("away")])

    def answer(_: Any) -> Any:
        for error in errors:
            raise error
        return Result(0.99)

    scene.members = answer
    scene.answer("a", Result(0.1))
    scene.wait()
    ((_, output, _),) = scene.finished
    assert (output["answer"], output["members"]) == (0.99, ["b@2"])


def test_a_combiner_that_raises_fails_its_input(scenes: Callable[[type[Model[Any, Any]]], Scene]) -> None:
    class Wrong(Combiner):
        version = "1"

        def combine(self, answers: Any) -> Any:
            del answers
            raise RuntimeError("a defect")

    class Broken(Pair):
        name = "broken"
        combine = Wrong()

    scene = scenes(Broken)
    scene.members = lambda _: Result(1)
    (run,) = scene.runs(1)
    scene.waiting.ask([run])
    assert isinstance(run.outcome, ModelFailed)
    assert run.outcome.message == "RuntimeError: a defect"


def test_an_answer_that_does_not_fit_fails_its_input(scenes: Callable[[type[Model[Any, Any]]], Scene]) -> None:
    class Texts(Ensemble[Any, str]):
        name = "texts"
        version = "1"
        members = ("a", "b")
        pinned = Pair.pinned
        combine = Mean()

    scene = scenes(Texts)
    scene.members = lambda _: Result(1)
    (run,) = scene.runs(1)
    scene.waiting.ask([run])
    assert "does not fit its type: $.answer" in run.outcome.message


def test_what_the_cache_has_lost_is_sent_again(scene: Scene) -> None:
    scene.says = Finished(Finish.RESEND)
    (run,) = scene.runs(1)
    scene.waiting.ask([run])
    scene.answer("a", Result(1))
    scene.answer("b", Result(1))
    scene.wait()
    assert [message.items for message in scene.sent] == [(run.item,)]


def test_a_defect_lets_the_leases_lapse(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.waiting.ask(scene.runs(1))

    def fail(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(scene.waiting, "_advance", fail)
    scene.answer("a", Result(1))
    scene.wait()
    assert scene.held == {}
    assert scene.finished == []


def test_closing_hands_back_what_waits(scene: Scene) -> None:
    runs = scene.runs(1, 2)
    scene.waiting.ask(runs)
    scene.waiting.close()
    assert len(scene.given_up) == 2
    assert [message.items for message in scene.sent] == [tuple(run.item for run in runs)]
    assert sorted(scene.left) == ["a", "a", "b", "b"]
    assert scene.held == {}


class TestFeaturesThatAreComputedApart:
    @pytest.fixture
    def scene(self, scenes: Callable[[type[Model[Any, Any]]], Scene]) -> Scene:
        return scenes(Over)

    def test_what_is_kept_goes_on_at_once(self, scene: Scene) -> None:
        scene.members = lambda _: Result([7])
        (run,) = scene.runs(7)
        assert scene.waiting.ask([run]) == []
        assert (run.features, run.outcome, run.attempt) == ([7], None, 1)
        assert [each.key.model_id for each in scene.asked] == ["stage.apart@3"]

    def test_the_rest_is_begun_again_when_it_is_kept_together_with_what_came_with_it(self, scene: Scene) -> None:
        runs = scene.runs(7, 8)
        scene.members = lambda _: None
        assert scene.waiting.ask(runs) == runs
        submission, told = scene.open.pop("stage.apart")  # the second's
        for each in (scene.asked[0], submission):
            each.answer = Result([1])
        scene.waiting._hearer(next(iter(scene.waiting._votes["h1"])), "stage.apart", scene.asked[0])(Result([1]))
        told(Result([1]))
        scene.wait()
        assert scene.finished == []
        assert len(scene.given_up) == 2
        assert [message.items for message in scene.sent] == [tuple(run.item for run in runs)]
        assert scene.sent[0].copies == 1  # by which its next delivery knows that it has waited

    def test_what_the_stage_fails_with_is_what_the_input_fails_with(self, scene: Scene) -> None:
        scene.waiting.ask(scene.runs(7))
        scene.answer("stage.apart", Failure(ModelFailed("no image")))
        scene.wait()
        ((kind, failure, _),) = scene.finished
        assert (kind, failure["name"], failure["message"]) == ("F", "ModelFailed", "no image")

    def test_a_stage_that_does_not_answer_is_a_failure_that_passes(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Apart, "timeout_s", 0.01)
        scene.waiting.ask(scene.runs(7))
        scene.wait()
        ((_, failure, _),) = scene.finished
        assert failure["name"] == "TransientFailure"
        assert failure["message"] == "stage.apart@3: no answer within 0.01 s"

    def test_none_may_be_what_a_stage_gives(self, scene: Scene) -> None:
        scene.members = lambda _: Result(None)
        (run,) = scene.runs(7)
        assert scene.waiting.ask([run]) == []
        assert run.features is None
