from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel, field_validator

from foreseen.errors import (
    InputRefused,
    InvalidOutput,
    ModelFailed,
    PredictionFailed,
    TimeLimitExceeded,
    VersionGone,
)
from workers.compute import ANSWERED, Unkept, compute
from workers.model import Model
from workers.policies import Limits
from workers.wanted import Unwanted, wanted


class Scripted(Model[int, int]):
    """Does with each batch what the test says, and keeps the batches it was given."""

    name = "scripted"
    version = "1"

    def __init__(self, script: Callable[[Sequence[int]], Any]) -> None:
        self.script = script
        self.batches: list[list[int]] = []

    def predict(self, batch: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(batch))
        outputs: Sequence[int | Exception] = self.script(batch)
        return outputs


class Observer:
    """Wants what it is told to, and writes down what is stuck."""

    def __init__(self, *unwanted: int) -> None:
        self.unwanted = unwanted
        self.asked = 0
        self.given_up: list[list[int]] = []
        self.was_told = threading.Event()

    def wanted(self, places: Sequence[int]) -> list[bool]:
        self.asked += 1
        return [place not in self.unwanted for place in places]

    def stuck(self, places: Sequence[int]) -> None:
        self.given_up.append(list(places))
        self.was_told.set()


def double(batch: Sequence[int]) -> list[int]:
    return [2 * one for one in batch]


def raising(error: BaseException) -> Callable[[Sequence[int]], Any]:
    def script(batch: Sequence[int]) -> list[int]:
        if 0 in batch:
            raise error
        return double(batch)

    return script


def test_outputs_come_in_the_order_of_the_inputs() -> None:
    model = Scripted(double)
    assert compute(model, [3, 1, 2]) == [6, 2, 4]
    assert model.batches == [[3, 1, 2]]


def test_an_empty_batch_calls_no_model() -> None:
    model = Scripted(double)
    assert compute(model, []) == []
    assert model.batches == []


@pytest.mark.parametrize("extra", [[], [1, 2, 3], [None] * 5])
def test_a_wrong_count_fails_every_item_and_nothing_runs_again(extra: list[Any]) -> None:
    model = Scripted(lambda _: extra)
    outcomes = compute(model, [1, 2])
    assert [type(outcome) for outcome in outcomes] == [InvalidOutput, InvalidOutput]
    assert f"expected 2, got {len(extra)}" in outcomes[0].message
    assert len(model.batches) == 1


@pytest.mark.parametrize("outputs", [None, 7, "ab", {1: 2, 3: 4}, iter([2, 4])])
def test_what_is_no_list_of_outputs_fails_every_item(outputs: Any) -> None:
    outcomes = compute(Scripted(lambda _: outputs), [1, 2])
    assert all(isinstance(outcome, InvalidOutput) for outcome in outcomes)


def test_an_array_counts_as_a_list_of_outputs() -> None:
    assert compute(Scripted(lambda batch: np.array(batch) * 2), [1, 2]) == [2, 4]


def test_an_exception_may_stand_in_an_items_place() -> None:
    fine, failed = compute(Scripted(lambda _: [2, ZeroDivisionError("by zero")]), [1, 0])
    assert fine == 2
    assert isinstance(failed, ModelFailed)
    assert failed.message == "ZeroDivisionError: by zero"
    assert failed.details == {"type": "ZeroDivisionError"}


def test_a_failure_of_our_own_stands_as_it_is() -> None:
    gone = VersionGone("gone")
    assert compute(Scripted(lambda _: [gone]), [1]) == [gone]


def test_if_predict_raises_each_item_is_computed_alone_so_that_the_bad_one_fails_alone() -> None:
    model = Scripted(raising(KeyError("zero")))
    one, zero, two = compute(model, [1, 0, 2])
    assert (one, two) == (2, 4)
    assert isinstance(zero, ModelFailed)
    assert model.batches == [[1, 0, 2], [1], [0], [2]]


def test_a_lone_item_is_not_computed_twice() -> None:
    model = Scripted(raising(ValueError("zero")))
    [outcome] = compute(model, [0])
    assert isinstance(outcome, ModelFailed)
    assert model.batches == [[0]]


def test_the_class_of_an_exception_is_told_with_its_module_and_a_long_text_is_cut() -> None:
    class Broken(Exception):
        pass

    [outcome] = compute(Scripted(lambda _: [Broken("x" * 10_000)]), [1])
    assert outcome.details["type"].endswith("Broken")
    assert "." in outcome.details["type"]
    assert len(outcome.message) < 700


def test_an_output_of_another_type_fails_alone() -> None:
    fine, wrong = compute(Scripted(lambda _: [2, "text"]), [1, 2])
    assert fine == 2
    assert isinstance(wrong, InvalidOutput)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError, SoftTimeLimitExceeded])
def test_what_stops_the_process_passes_through(stop: type[BaseException]) -> None:
    model = Scripted(raising(stop()))
    with pytest.raises(stop):
        compute(model, [1, 0])
    assert len(model.batches) == 1


@pytest.mark.parametrize("stop", [MemoryError, SoftTimeLimitExceeded])
def test_a_stop_that_the_model_caught_and_put_in_an_items_place_still_stops(stop: type[Exception]) -> None:
    with pytest.raises(stop):
        compute(Scripted(lambda _: [2, stop()]), [1, 2])


def test_values_that_do_not_fit_are_refused_and_the_others_computed_together() -> None:
    model = Scripted(double)
    one, refused, two = compute(model, [1, "text", 2])
    assert (one, two) == (2, 4)
    assert isinstance(refused, InputRefused)
    assert model.batches == [[1, 2]]


def test_a_type_whose_own_validation_breaks_fails_its_item_alone() -> None:
    class Fragile(BaseModel):
        at: int

        @field_validator("at")
        @classmethod
        def _look_up(cls, at: int) -> int:
            return {1: 1}[at]

    class Looked(Model[Fragile, int]):
        name = "looked"
        version = "1"

        def predict(self, batch: Sequence[Fragile]) -> list[int]:
            return [one.at for one in batch]

    fine, failed = compute(Looked(), [{"at": 1}, {"at": 2}])
    assert fine == 1
    assert isinstance(failed, PredictionFailed)
    assert failed.details == {"type": "KeyError"}


# --- limits -----------------------------------------------------------------------------------------------------------


class Limited(Scripted):
    name = "limited"
    limits = Limits(compute_s=0.1)


def slow_at_zero(nap_s: float, naps: int) -> Callable[[Sequence[int]], Any]:
    """Take long for a zero, in so many naps: between two of them a thread can be interrupted."""

    def script(batch: Sequence[int]) -> list[int]:
        if 0 in batch:
            for _ in range(naps):
                time.sleep(nap_s)
        return double(batch)

    return script


def in_thread(call: Callable[[], Any]) -> Any:
    """Return what it returns on a thread that is not the main one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def here(call: Callable[[], Any]) -> Any:
    return call()


@pytest.mark.parametrize("where", [here, in_thread])
def test_an_item_over_the_limit_is_ended_and_fails_alone(where: Callable[[Callable[[], Any]], Any]) -> None:
    model = Limited(slow_at_zero(0.01, 1000))
    one, zero, two = where(lambda: compute(model, [1, 0, 2]))
    assert (one, two) == (2, 4)
    assert isinstance(zero, TimeLimitExceeded)
    assert zero.details == {"limit_s": 0.1}
    assert model.batches == [[1, 0, 2], [1], [0], [2]]


@pytest.mark.parametrize("where", [here, in_thread])
def test_a_model_that_catches_every_exception_is_ended_all_the_same(where: Callable[[Callable[[], Any]], Any]) -> None:
    def script(batch: Sequence[int]) -> list[int]:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with suppress(Exception):
                time.sleep(0.01)
        return double(batch)

    [outcome] = where(lambda: compute(Limited(script), [1]))
    assert isinstance(outcome, TimeLimitExceeded)


@pytest.mark.parametrize("where", [here, in_thread])
def test_within_the_limit_nothing_is_raised_then_or_later(where: Callable[[Callable[[], Any]], Any]) -> None:
    def call() -> Any:
        outcomes = [compute(Limited(slow_at_zero(0.001, 1)), [0, 1]) for _ in range(50)]
        time.sleep(0.3)  # longer than the limit of any of them
        return outcomes

    assert where(call) == [[0, 2]] * 50


@pytest.mark.parametrize("where", [here, in_thread])
def test_what_ends_just_at_the_limit_has_one_outcome(where: Callable[[Callable[[], Any]], Any]) -> None:
    """The race between the call's end and its being ended: each has the result or the failure, and none the other's."""

    class Tight(Scripted):
        name = "tight"
        limits = Limits(compute_s=0.005)

    def call() -> list[Any]:
        outcomes: list[Any] = []
        for number in range(60):
            nap_s = 0.004 + number % 20 / 10_000  # 4 to 6 ms
            outcomes += compute(Tight(lambda batch, nap_s=nap_s: time.sleep(nap_s) or double(batch)), [number])  # type: ignore[misc]
        time.sleep(0.1)
        return outcomes

    outcomes = where(call)
    assert all(outcome == 2 * n or isinstance(outcome, TimeLimitExceeded) for n, outcome in enumerate(outcomes))


def test_what_does_not_come_back_in_a_thread_is_given_up_on() -> None:
    """A thread that waits in the system cannot be ended; whoever waits for its outcome can be told."""
    observer = Observer()
    outcomes = in_thread(lambda: compute(Limited(slow_at_zero(1.6, 1)), [0], observer))
    assert observer.given_up == [[0]]
    assert outcomes == [ANSWERED]


def test_a_batch_that_was_answered_for_is_not_computed_item_by_item_when_it_ends() -> None:
    observer = Observer()
    model = Limited(slow_at_zero(1.6, 1))
    assert in_thread(lambda: compute(model, [0, 1], observer)) == [ANSWERED, ANSWERED]
    assert observer.given_up == [[0, 1]]
    assert model.batches == [[0, 1]]


def test_one_of_a_batch_that_is_computed_item_by_item_and_does_not_come_back_is_the_last() -> None:
    """Its observer has answered for all the others, too."""

    def script(batch: Sequence[int]) -> list[int]:
        if len(batch) > 1:
            raise ValueError
        return list(slow_at_zero(1.6, 1)(batch))

    observer, model = Observer(), Limited(script)
    assert in_thread(lambda: compute(model, [1, 0, 2], observer)) == [ANSWERED] * 3
    assert observer.given_up == [[1]]
    assert model.batches == [[1, 0, 2], [1], [0]]


def test_the_main_thread_is_ended_even_while_it_waits_in_the_system() -> None:
    began = time.monotonic()
    [outcome] = compute(Limited(slow_at_zero(30, 1)), [0])
    assert isinstance(outcome, TimeLimitExceeded)
    assert time.monotonic() - began < 15


# --- who wants it -----------------------------------------------------------------------------------------------------


def test_a_model_learns_which_of_its_batch_anybody_wants() -> None:
    told: list[list[bool]] = []
    model = Scripted(lambda batch: told.append(wanted()) or double(batch))  # type: ignore[func-returns-value]
    compute(model, [5, 6, 7], Observer(1))
    assert told == [[True, False, True]]


def test_an_item_computed_again_alone_has_its_own_answer() -> None:
    told: list[list[bool]] = []

    def script(batch: Sequence[int]) -> list[int]:
        told.append(wanted())
        return raising(ValueError())(batch)

    compute(Scripted(script), [1, 0], Observer(1))
    assert told == [[True, False], [True], [False]]


def test_a_model_may_ask_at_each_step_of_a_loop() -> None:
    observer = Observer()
    model = Scripted(lambda batch: [wanted() for _ in range(1000)] and double(batch))
    compute(model, [1], observer)
    assert observer.asked == 1


def test_what_nobody_wants_is_not_computed_item_by_item() -> None:
    def script(_: Sequence[int]) -> list[int]:
        if not any(wanted()):
            raise Unwanted
        raise AssertionError("somebody wants it")

    model = Scripted(script)
    assert [type(outcome) for outcome in compute(model, [0, 1], Observer(0, 1))] == [Unwanted, Unwanted]
    assert model.batches == [[0, 1]]


def test_a_model_that_says_so_of_what_is_wanted_has_failed() -> None:
    """Sent again, it would say so again, for ever."""
    never_asked = compute(Scripted(lambda _: [2, Unwanted()]), [1, 0])
    raised = compute(Scripted(raising(Unwanted())), [0, 1])
    asked = compute(Scripted(lambda _: wanted() and [Unwanted(), Unwanted()]), [0, 1], Observer(1))
    assert [type(outcome) for outcome in never_asked] == [int, ModelFailed]
    assert [type(outcome) for outcome in raised] == [ModelFailed, int]
    assert [type(outcome) for outcome in asked] == [ModelFailed, Unwanted]


def test_one_that_nobody_wants_may_stand_in_its_place() -> None:
    fine, gone = compute(Scripted(lambda _: wanted() and [2, Unwanted()]), [1, 0], Observer(1))
    assert fine == 2
    assert isinstance(gone, Unwanted)


def test_nobody_can_be_asked_where_nothing_is_computed() -> None:
    with pytest.raises(RuntimeError, match="while it computes"):
        wanted()


class Choosy(Scripted):
    """Keeps what is even, and cannot say of what is above ten."""

    def cacheable(self, output: int) -> bool:
        if output > 10:
            raise ZeroDivisionError("a secret output")
        return output % 2 == 0


class TestKeeping:
    def test_a_model_says_of_each_output_whether_it_is_kept(self) -> None:
        assert compute(Choosy(lambda batch: batch), [1, 2, 3]) == [Unkept(1), 2, Unkept(3)]

    def test_it_is_not_asked_about_failures(self) -> None:
        failed, bad = compute(Choosy(lambda _: [ValueError("no"), "no number"]), [1, 2])
        assert isinstance(failed, ModelFailed)
        assert isinstance(bad, InvalidOutput)

    def test_what_it_cannot_say_is_delivered_and_not_kept_and_told_once_without_content(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = Choosy(lambda batch: batch)
        for _ in range(2):
            assert compute(model, [11, 2]) == [Unkept(11), 2]
        (told,) = [record.getMessage() for record in caplog.records]
        assert "scripted@1: cacheable raised ZeroDivisionError" in told
        assert "secret" not in caplog.text
