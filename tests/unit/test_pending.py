"""A prediction under way, as a future: one end each, whoever comes first."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, as_completed, wait
from typing import Any

import pytest

from foreseen.client.submission import Answer, Source, Submission
from foreseen.errors import (
    CacheUnavailable,
    ModelFailed,
    PredictionTimeout,
    ProducerClosed,
)
from foreseen.flights import Kind
from foreseen.keys import Key
from foreseen.outcome import Failure, Result
from producer.pending import PendingPrediction, value_of

KEY = Key("model", "1", "ab" * 20)


class Leaving:
    """Stands in for the engine's leave, and keeps who left with what."""

    def __init__(self) -> None:
        self.left: list[tuple[Submission, Answer]] = []

    def __call__(self, submission: Submission, answer: Answer) -> bool:
        self.left.append((submission, answer))
        return True


def deaf(_submission: Submission, _timeout: float | None) -> None:
    """Stands in for hearing on this thread: somebody else hears."""


@pytest.fixture
def leaving() -> Leaving:
    return Leaving()


@pytest.fixture
def pending(leaving: Leaving) -> PendingPrediction:
    return PendingPrediction(Submission(KEY, None, Kind.DETACHED), leaving, deaf)


class TestOutcomes:
    @pytest.mark.parametrize("value", [5, None, [], {"label": "cat"}])
    def test_a_result_is_its_value(self, pending: PendingPrediction, value: Any) -> None:
        assert not pending.done()
        pending.resolve(Result(value))
        assert pending.result() == value
        assert pending.result(timeout=0) == value
        assert pending.exception() is None
        assert pending.done()

    def test_a_failure_is_raised(self, pending: PendingPrediction) -> None:
        error = ModelFailed("broken", {"type": "x"})
        pending.resolve(Failure(error))
        with pytest.raises(ModelFailed) as raised:
            pending.result()
        assert raised.value is error
        assert pending.exception() is error

    def test_an_error_of_this_side_is_raised(self, pending: PendingPrediction) -> None:
        pending.resolve(ProducerClosed("closed"))
        with pytest.raises(ProducerClosed):
            pending.result(timeout=0)

    def test_only_the_first_counts(self, pending: PendingPrediction) -> None:
        pending.resolve(Result(1))
        pending.resolve(Result(2))
        pending.resolve(Failure(ModelFailed("late")))
        assert pending.result() == 1

    def test_a_running_out_timeout_leaves_it_pending(self, pending: PendingPrediction, leaving: Leaving) -> None:
        with pytest.raises(PredictionTimeout, match=r"model@1:abababab within 0 s; it is still pending"):
            pending.result(timeout=0)
        assert not pending.done()
        assert leaving.left == []
        pending.resolve(Result(1))
        assert pending.result(timeout=0) == 1

    def test_an_outcome_that_is_a_timeout_is_not_taken_for_the_caller_s(self, pending: PendingPrediction) -> None:
        outcome = PredictionTimeout("the outcome itself")
        pending.resolve(outcome)
        with pytest.raises(PredictionTimeout) as raised:
            pending.result(timeout=0)
        assert raised.value is outcome

    def test_says_what_is_known_of_the_submission(self, pending: PendingPrediction) -> None:
        assert pending.key == str(KEY)
        assert pending.task_id is None
        pending._submission.source, pending._submission.task_id = Source.COMPUTED, "task-1"
        assert (pending.source, pending.task_id) == (Source.COMPUTED, "task-1")


class TestCancelling:
    def test_leaves_once(self, pending: PendingPrediction, leaving: Leaving) -> None:
        assert pending.cancel()
        assert pending.cancel()
        assert [submission for submission, _ in leaving.left] == [pending._submission]
        assert pending.cancelled()
        assert pending.done()
        with pytest.raises(CancelledError):
            pending.result(timeout=0)

    def test_an_outcome_that_comes_later_is_dropped(self, pending: PendingPrediction) -> None:
        pending.cancel()
        pending.resolve(Result(1))
        assert pending.cancelled()

    def test_comes_too_late_after_an_outcome(self, pending: PendingPrediction, leaving: Leaving) -> None:
        pending.resolve(Result(1))
        assert not pending.cancel()
        assert leaving.left == []
        assert pending.result() == 1

    def test_wakes_those_who_wait_for_many(self, pending: PendingPrediction) -> None:
        pending.cancel()
        assert wait([pending], timeout=10).done == {pending}

    def test_wakes_who_waits_for_the_result(self, pending: PendingPrediction) -> None:
        gate, raised = threading.Event(), list[BaseException]()

        def wait_for_it() -> None:
            gate.set()
            try:
                pending.result(timeout=10)
            except BaseException as error:  # noqa: BLE001 - told on the test's own thread
                raised.append(error)

        thread = threading.Thread(target=wait_for_it)
        thread.start()
        gate.wait(10)
        pending.cancel()
        thread.join(10)
        assert [type(error) for error in raised] == [CancelledError]

    def test_stands_though_the_cache_cannot_be_told(self) -> None:
        def fail(_submission: Submission, _answer: Answer) -> bool:
            raise CacheUnavailable("down")

        pending = PendingPrediction(Submission(KEY, None, Kind.WAITER), fail, deaf)
        with pytest.raises(CacheUnavailable):
            pending.cancel()
        assert pending.cancelled()

    def test_and_an_outcome_at_once_give_one_end(self) -> None:
        """Many times, since it is a race: who wins is chance, that one wins is not."""
        rounds = 300
        gate = threading.Barrier(2)
        leavings = [Leaving() for _ in range(rounds)]
        pendings = [PendingPrediction(Submission(KEY, None, Kind.WAITER), leaving, deaf) for leaving in leavings]
        ends: list[list[Future[Any]]] = [[] for _ in range(rounds)]
        for pending, end in zip(pendings, ends, strict=True):
            pending.add_done_callback(end.append)
        cancelled: list[bool] = []

        def resolve() -> None:
            for pending in pendings:
                gate.wait(10)
                pending.resolve(Result(1))

        thread = threading.Thread(target=resolve)
        thread.start()
        for pending in pendings:
            gate.wait(10)
            cancelled.append(pending.cancel())
        thread.join(10)
        for pending, leaving, end, was_cancelled in zip(pendings, leavings, ends, cancelled, strict=True):
            assert end == [pending]
            assert pending.cancelled() is was_cancelled
            assert len(leaving.left) == was_cancelled
            assert was_cancelled or pending.result(timeout=10) == 1


class _Watched(PendingPrediction):
    """Lets somebody look at it in the very moment before it has its outcome."""

    before_its_end: Callable[[], None] | None = None

    @property  # type: ignore[override]
    def _state(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.__dict__["state"]

    @_state.setter
    def _state(self, state: str) -> None:
        if state == "FINISHED" and self.before_its_end is not None:
            self.before_its_end()
        self.__dict__["state"] = state

    @property
    def is_waited_for(self) -> bool:
        own = self.__dict__
        return bool(
            own.get("_waiters") or own.get("_done_callbacks") or ("_condition" in own and own["_condition"]._waiters)
        )


class TestWhoLooksAsTheOutcomeComes:
    """Until somebody looks there is nothing that an outcome could wake him by."""

    @staticmethod
    def by_result(pending: PendingPrediction) -> Any:
        return pending.result(timeout=10)

    @staticmethod
    def by_exception(pending: PendingPrediction) -> Any:
        assert pending.exception(timeout=10) is None
        return pending.result()

    @staticmethod
    def by_wait(pending: PendingPrediction) -> Any:
        assert wait([pending], timeout=10).done == {pending}
        return pending.result()

    @staticmethod
    def by_callback(pending: PendingPrediction) -> Any:
        called = threading.Event()
        pending.add_done_callback(lambda _: called.set())
        assert called.wait(10)
        return pending.result()

    @pytest.mark.parametrize("look", [by_result, by_exception, by_wait, by_callback])
    def test_is_told(self, leaving: Leaving, look: Callable[[PendingPrediction], Any]) -> None:
        pending = _Watched(Submission(KEY, None, Kind.WAITER), leaving, deaf)
        seen: list[Any] = []
        looker = threading.Thread(target=lambda: seen.append(look(pending)), daemon=True)

        def let_him_look() -> None:
            looker.start()
            deadline = time.monotonic() + 10
            while not pending.is_waited_for and time.monotonic() < deadline:
                time.sleep(0.001)

        pending.before_its_end = let_him_look
        pending.resolve(Result(7))
        looker.join(5)
        assert seen == [7]


class TestCallbacks:
    def test_are_called_once_with_the_pending_itself(self, pending: PendingPrediction) -> None:
        called: list[Future[Any]] = []
        pending.add_done_callback(called.append)
        pending.resolve(Result(1))
        pending.resolve(Result(2))
        assert called == [pending]

    def test_are_called_at_once_when_it_is_done(self, pending: PendingPrediction) -> None:
        pending.resolve(Result(1))
        called: list[Future[Any]] = []
        pending.add_done_callback(called.append)
        assert called == [pending]

    def test_are_called_on_cancelling_too(self, pending: PendingPrediction) -> None:
        called: list[Future[Any]] = []
        pending.add_done_callback(called.append)
        pending.cancel()
        assert called == [pending]

    def test_may_submit_and_cancel(self, pending: PendingPrediction, leaving: Leaving) -> None:
        """They run on the listener's thread, and must find no lock held."""
        other = PendingPrediction(Submission(KEY, None, Kind.WAITER), leaving, deaf)
        pending.add_done_callback(lambda _: other.cancel())
        pending.resolve(Result(1))
        assert other.cancelled()

    def test_can_be_awaited(self, pending: PendingPrediction) -> None:
        async def wait_for_it() -> Any:
            waiting = asyncio.wrap_future(pending)
            asyncio.get_running_loop().call_soon(pending.resolve, Result(1))
            return await asyncio.wait_for(waiting, 10)

        assert asyncio.run(wait_for_it()) == 1


@pytest.mark.parametrize("error", [ProducerClosed("x"), CacheUnavailable("y")])
def test_an_error_as_an_answer_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        value_of(error)  # type: ignore[arg-type]
    assert raised.value is error


def test_an_outcome_as_an_answer_is_its_value_or_its_error() -> None:
    assert value_of(Result(None)) is None
    with pytest.raises(ModelFailed):
        value_of(Failure(ModelFailed("x")))


class TestAnsweredFromTheStart:
    """A hit: a Future in all that one can ask of it, made without what a Future keeps for those who wait."""

    @pytest.fixture
    def hit(self, leaving: Leaving) -> PendingPrediction:
        submission = Submission(KEY, None, Kind.DETACHED)
        submission.answer, submission.source = Result({"label": "cat"}), Source.HIT
        return PendingPrediction(submission, leaving, deaf)

    def test_its_value_is_there_and_nothing_was_made_for_it(self, hit: PendingPrediction) -> None:
        assert hit.done()
        assert hit.result() == hit.result(timeout=0) == {"label": "cat"}
        assert not {"_condition", "_waiters", "_done_callbacks"} & vars(hit).keys()

    def test_it_is_a_future_to_those_who_wait_for_many(self, hit: PendingPrediction) -> None:
        assert isinstance(hit, Future)
        assert wait([hit], 0).done == {hit}
        assert list(as_completed([hit], 0)) == [hit]
        assert (hit.exception(), hit.running(), hit.cancelled()) == (None, False, False)
        assert "finished" in repr(hit)

    def test_callbacks_are_called_at_once(self, hit: PendingPrediction) -> None:
        called: list[Any] = []
        hit.add_done_callback(called.append)
        assert called == [hit]

    def test_it_cannot_be_cancelled(self, hit: PendingPrediction, leaving: Leaving) -> None:
        assert not hit.cancel()
        assert leaving.left == []
        assert hit.result() == {"label": "cat"}

    def test_it_can_be_awaited_on_a_loop(self, hit: PendingPrediction) -> None:
        async def ask() -> Any:
            return await asyncio.wrap_future(hit)

        assert asyncio.run(ask()) == {"label": "cat"}

    def test_threads_that_look_at_it_at_once_see_one_condition(self, hit: PendingPrediction) -> None:
        seen: list[Any] = []
        start = threading.Barrier(8)

        def look() -> None:
            start.wait()
            seen.append(hit._condition)

        threads = [threading.Thread(target=look) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len({id(each) for each in seen}) == 1

    def test_what_it_does_not_have_is_told_as_always(self, hit: PendingPrediction) -> None:
        with pytest.raises(AttributeError, match="no attribute 'label'"):
            _ = hit.label  # type: ignore[attr-defined]
