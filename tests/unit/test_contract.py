"""The contract, tried on models that keep it and on models that break each part of it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from foreseen.errors import Misconfigured
from workers import Batching, CachePolicy, Model, as_model
from workers.contract import Cost, Report, Verdict
from workers.trial import check_model


class Good(Model[float, float]):
    """Each kept promise; the models below break one each."""

    name = "good"
    version = "1"
    batching = Batching(max_batch_size=6)
    examples = (1.0, 2.5, 4.0)

    def predict(self, batch: Sequence[float]) -> list[float]:
        return [2 * number for number in batch]


def failed(report: Report) -> dict[str, str]:
    return {one.name: one.seen for one in report.checks if one.verdict is Verdict.FAILED}


def untried(report: Report) -> set[str]:
    return {one.name for one in report.checks if one.verdict is Verdict.UNTRIED}


def test_what_was_loaded_is_unloaded() -> None:
    loaded: list[Good] = []

    class Connected(Good):
        def load(self) -> None:
            loaded.append(self)

        def unload(self) -> None:
            loaded.remove(self)

    assert check_model(Connected, measure=False).passed
    assert not loaded


def test_a_good_model_passes_all_and_its_batch_sizes_are_measured() -> None:
    report = check_model(Good)
    assert report.passed, report
    assert [one.name for one in report.checks] == [
        *("loads", "inputs fit", "warms up", "outputs fit"),
        *("deterministic", "batch equals single", "order kept"),
    ]
    assert not untried(report)
    assert [cost.batch_size for cost in report.costs] == [1, 2, 4, 6]
    assert all(cost.call_s > 0 for cost in report.costs)
    assert report.suggested_batch_size in {1, 2, 4, 6}


def test_the_suggested_size_is_the_smallest_that_is_nearly_the_cheapest() -> None:
    costs = (Cost(1, 1.0), Cost(2, 1.1), Cost(4, 1.7), Cost(8, 3.2))
    assert Report("a@1", (), costs, 8).suggested_batch_size == 4
    assert Report("a@1", (), (), 8).suggested_batch_size is None


class TestWhatBreaksIt:
    def test_a_load_that_raises(self) -> None:
        class Broken(Good):
            def load(self) -> None:
                raise OSError("no weights")

        report = check_model(Broken)
        assert failed(report) == {"loads": "OSError: no weights"}
        assert len(report.checks) == 1
        assert "failed: loads: OSError: no weights" in str(report)

    @pytest.mark.parametrize("example", ["1.5", {1, 2}, float("nan")])
    def test_an_example_that_does_not_fit_or_cannot_travel(self, example: Any) -> None:
        """A text would be taken for a number by the worker, but producers refuse it."""
        report = check_model(Good, [1.0, example])
        assert failed(report).keys() == {"inputs fit"}
        assert failed(report)["inputs fit"].startswith("input 1: ")

    def test_a_model_that_raises(self) -> None:
        class Broken(Good):
            def predict(self, batch: Sequence[float]) -> list[float]:
                raise ZeroDivisionError(len(batch))

        assert failed(check_model(Broken)) == {"warms up": "ZeroDivisionError: 3"}
        assert failed(check_model(Broken, [1.0])).keys() == {"warms up"}

    def test_an_input_that_is_no_example_and_fails(self) -> None:
        class Broken(Good):
            def predict(self, batch: Sequence[float]) -> list[float]:
                return [1 / (number - 7) for number in batch]

        told = failed(check_model(Broken, [1.0, 7.0]))
        assert told == {"outputs fit": "input 1: ModelFailed: ZeroDivisionError: float division by zero"}

    def test_an_output_of_another_type_or_one_too_many(self) -> None:
        class OtherType(Good):
            def predict(self, batch: Sequence[float]) -> Any:
                return ["x" for _ in batch]

        class TooMany(Good):
            def predict(self, batch: Sequence[float]) -> list[float]:
                return [*batch, 0.0]

        assert failed(check_model(OtherType)).keys() == {"warms up"}
        assert failed(check_model(TooMany)).keys() == {"warms up"}
        TooMany.examples = ()
        assert "expected 2, got 3" in failed(check_model(TooMany, [1.0, 2.0]))["outputs fit"]

    def test_an_output_that_cannot_travel(self) -> None:
        class Endless(Model[int, Any]):
            name = "endless"
            version = "1"

            def predict(self, batch: Sequence[int]) -> list[Any]:
                return [2**70 for _ in batch]

        assert "beyond 64 bits" in failed(check_model(Endless, [1, 2]))["outputs fit"]

    def test_an_answer_that_comes_by_chance(self) -> None:
        class Chance(Good):
            def predict(self, batch: Sequence[float]) -> list[float]:
                return [number + random.random() for number in batch]

        told = failed(check_model(Chance))
        assert "the same inputs again gave outputs" in told["deterministic"]
        assert "An answer is kept under its input's key" in told["deterministic"]

    def test_weights_that_differ_by_process(self) -> None:
        loads = itertools.count()

        class Process(Good):
            def load(self) -> None:
                self.weight = next(loads)

            def predict(self, batch: Sequence[float]) -> list[float]:
                return [number + self.weight for number in batch]

        assert failed(check_model(Process)).keys() == {"deterministic"}
        assert "by the model loaded anew, gave" in failed(check_model(Process))["deterministic"]

    def test_an_answer_that_depends_on_its_company(self) -> None:
        class Company(Good):
            def predict(self, batch: Sequence[float]) -> list[float]:
                return [number - float(np.mean(batch)) for number in batch]

        assert "batch equals single" in failed(check_model(Company))

    def test_an_answer_that_depends_on_a_full_batch(self) -> None:
        class Full(Good):
            def predict(self, batch: Sequence[float]) -> list[float]:
                return [number + (len(batch) == 6) for number in batch]

        assert failed(check_model(Full)).keys() == {"batch equals single"}
        assert failed(check_model(Full))["batch equals single"].startswith("a batch of 6 gave outputs")

    def test_answers_in_another_order(self) -> None:
        class Sorted(Good):
            def predict(self, batch: Sequence[float]) -> list[float]:
                return sorted(2 * number for number in batch)

        assert "order kept" in failed(check_model(Sorted))


def test_rounding_passes_within_the_models_tolerance_or_a_given_one() -> None:
    class Rounds(Good):
        def predict(self, batch: Sequence[float]) -> list[float]:
            return [number + 1e-7 * len(batch) for number in batch]

    told = failed(check_model(Rounds))["batch equals single"]
    assert "If that is rounding, say so: CachePolicy(audit_tolerance=1e-6)" in told
    assert check_model(Rounds, tolerance=1e-6, measure=False).passed
    Rounds.cache = CachePolicy(audit_tolerance=1e-6)
    assert check_model(Rounds, measure=False).passed


def test_what_differs_by_nature_is_not_compared() -> None:
    class Sampled(Good):
        cache = CachePolicy(audit_tolerance=None)

        def predict(self, batch: Sequence[float]) -> list[float]:
            return [random.random() for _ in batch]

    report = check_model(Sampled, measure=False)
    assert report.passed
    assert untried(report) == {"deterministic", "batch equals single", "order kept"}


def test_what_one_input_cannot_show_is_untried() -> None:
    report = check_model(Good, [3.0], measure=False)
    assert report.passed
    assert untried(report) == {"order kept"}


def test_outputs_that_are_delivered_and_not_kept_are_compared_too() -> None:
    class Unsure(Good):
        def cacheable(self, output: float) -> bool:
            return output > 3

    assert check_model(Unsure, measure=False).passed


def test_a_function_is_tried_too_and_arrays_travel() -> None:
    @as_model(version="1", batch=True, examples=[np.ones(3), np.arange(3.0)])
    def doubled(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [*(np.stack(rows) * 2)]

    report = check_model(doubled, measure=False)
    assert report.passed, report


def test_without_a_model_or_an_input_there_is_nothing_to_try() -> None:
    with pytest.raises(Misconfigured, match="is no model"):
        check_model(int)
    with pytest.raises(Misconfigured, match=r"good@1 has no examples to try: give the class some"):
        check_model(Good, [])
