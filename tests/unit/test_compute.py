from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel, field_validator

from foreseen.errors import InputRefused, InvalidOutput, ModelFailed, PredictionFailed, VersionGone
from workers.compute import compute, run_batch
from workers.model import Model


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
    assert run_batch(model, [3, 1, 2]) == [6, 2, 4]
    assert model.batches == [[3, 1, 2]]


def test_an_empty_batch_calls_no_model() -> None:
    model = Scripted(double)
    assert run_batch(model, []) == []
    assert compute(model, []) == []
    assert model.batches == []


@pytest.mark.parametrize("extra", [[], [1, 2, 3], [None] * 5])
def test_a_wrong_count_fails_every_item_and_nothing_runs_again(extra: list[Any]) -> None:
    model = Scripted(lambda _: extra)
    outcomes = run_batch(model, [1, 2])
    assert [type(outcome) for outcome in outcomes] == [InvalidOutput, InvalidOutput]
    assert f"expected 2, got {len(extra)}" in outcomes[0].message
    assert len(model.batches) == 1


@pytest.mark.parametrize("outputs", [None, 7, "ab", {1: 2, 3: 4}, iter([2, 4])])
def test_what_is_no_list_of_outputs_fails_every_item(outputs: Any) -> None:
    outcomes = run_batch(Scripted(lambda _: outputs), [1, 2])
    assert all(isinstance(outcome, InvalidOutput) for outcome in outcomes)


def test_an_array_counts_as_a_list_of_outputs() -> None:
    assert run_batch(Scripted(lambda batch: np.array(batch) * 2), [1, 2]) == [2, 4]


def test_an_exception_may_stand_in_an_items_place() -> None:
    fine, failed = run_batch(Scripted(lambda _: [2, ZeroDivisionError("by zero")]), [1, 0])
    assert fine == 2
    assert isinstance(failed, ModelFailed)
    assert failed.message == "ZeroDivisionError: by zero"
    assert failed.details == {"type": "ZeroDivisionError"}


def test_a_failure_of_our_own_stands_as_it_is() -> None:
    gone = VersionGone("gone")
    assert run_batch(Scripted(lambda _: [gone]), [1]) == [gone]


def test_if_predict_raises_each_item_is_computed_alone_so_that_the_bad_one_fails_alone() -> None:
    model = Scripted(raising(KeyError("zero")))
    one, zero, two = run_batch(model, [1, 0, 2])
    assert (one, two) == (2, 4)
    assert isinstance(zero, ModelFailed)
    assert model.batches == [[1, 0, 2], [1], [0], [2]]


def test_a_lone_item_is_not_computed_twice() -> None:
    model = Scripted(raising(ValueError("zero")))
    [outcome] = run_batch(model, [0])
    assert isinstance(outcome, ModelFailed)
    assert model.batches == [[0]]


def test_the_class_of_an_exception_is_told_with_its_module_and_a_long_text_is_cut() -> None:
    class Broken(Exception):
        pass

    [outcome] = run_batch(Scripted(lambda _: [Broken("x" * 10_000)]), [1])
    assert outcome.details["type"].endswith("Broken")
    assert "." in outcome.details["type"]
    assert len(outcome.message) < 700


def test_an_output_of_another_type_fails_alone() -> None:
    fine, wrong = run_batch(Scripted(lambda _: [2, "text"]), [1, 2])
    assert fine == 2
    assert isinstance(wrong, InvalidOutput)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError, SoftTimeLimitExceeded])
def test_what_stops_the_process_passes_through(stop: type[BaseException]) -> None:
    model = Scripted(raising(stop()))
    with pytest.raises(stop):
        run_batch(model, [1, 0])
    assert len(model.batches) == 1


@pytest.mark.parametrize("stop", [MemoryError, SoftTimeLimitExceeded])
def test_a_stop_that_the_model_caught_and_put_in_an_items_place_still_stops(stop: type[Exception]) -> None:
    with pytest.raises(stop):
        run_batch(Scripted(lambda _: [2, stop()]), [1, 2])


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
