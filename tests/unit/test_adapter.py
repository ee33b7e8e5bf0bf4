"""What all adapters have in common: batches as arrays, rows as outputs, and which files are a model's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from foreseen.array_type import ArrayOf
from foreseen.errors import Misconfigured, ModelFailed
from workers.adapters.adapter import Adapter
from workers.adapters.arrays import rows, stacked
from workers.adapters.framework import framework
from workers.compute import compute


class Two(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    left: np.ndarray
    right: float


class TestStacked:
    def test_numbers_lists_and_arrays_become_one_array(self) -> None:
        np.testing.assert_array_equal(stacked([1, 2, 3]), [1, 2, 3])
        np.testing.assert_array_equal(stacked([[1.0, 2.0], np.array([3, 4])]), [[1, 2], [3, 4]])

    def test_mappings_and_models_become_arrays_by_name(self) -> None:
        by_name = stacked([{"a": [1, 2], "b": 0.5}, {"b": 1.5, "a": [3, 4]}])
        assert isinstance(by_name, dict)
        np.testing.assert_array_equal(by_name["a"], [[1, 2], [3, 4]])
        np.testing.assert_array_equal(by_name["b"], [0.5, 1.5])
        of_models = stacked([Two(left=np.ones(2), right=1.0)])
        assert isinstance(of_models, dict)
        assert of_models["left"].shape == (1, 2)

    def test_only_floating_point_numbers_get_the_given_type(self) -> None:
        by_name = stacked([{"a": [1.0], "b": [1], "c": [True]}], "float32")
        assert isinstance(by_name, dict)
        assert [by_name[name].dtype.name for name in "abc"] == ["float32", "int64", "bool"]

    @pytest.mark.parametrize(
        "batch",
        [
            [[1.0, 2.0], [1.0]],
            [{"a": 1}, {"b": 1}],
            [{"a": 1}, {"a": 1, "b": 1}],
            ["text", "text"],
            [None],
        ],
    )
    def test_what_is_no_array_together_is_refused(self, batch: Sequence[Any]) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - numpy's message or ours
            stacked(batch)

    def test_mappings_in_mappings_are_refused(self) -> None:
        with pytest.raises(TypeError, match="a is not an array"):
            stacked([{"a": {"b": 1}}])


class TestRows:
    def test_of_an_array_of_several_and_of_names(self) -> None:
        assert rows(np.array([[1, 2], [3, 4]]), 2, as_arrays=False) == [[1, 2], [3, 4]]
        assert rows((np.array([1, 2]), np.array([True, False])), 2, as_arrays=False) == [[1, True], [2, False]]
        assert rows({"a": np.array([1.5, 2.5])}, 2, as_arrays=False) == [{"a": 1.5}, {"a": 2.5}]
        assert rows(np.array(["low", "high"]), 2, as_arrays=False) == ["low", "high"]

    def test_rows_that_stay_arrays_do_not_hold_the_batch(self) -> None:
        batch = np.zeros((2, 3))
        first, _ = rows(batch, 2, as_arrays=True)
        assert isinstance(first, np.ndarray)
        assert not np.shares_memory(first, batch)

    @pytest.mark.parametrize("results", [np.zeros(3), np.array(1.0), {"a": np.zeros(2), "b": np.zeros(3)}])
    def test_an_output_whose_first_axis_is_not_the_batchs_is_refused(self, results: Any) -> None:
        with pytest.raises(ValueError, match="its first axis must be the batch's"):
            rows(results, 2, as_arrays=False)


class Doubling(Adapter[list[float], Any]):
    """An adapter of no framework at all."""

    ran: ClassVar[list[int]] = []

    def run(self, encoded: Any) -> Any:
        self.ran.append(len(encoded))
        return encoded * 2


def of(output: Any, **attributes: Any) -> Any:
    class Doubled(Doubling):
        name = "doubled"
        version = "1"
        ran: ClassVar[list[int]] = []

    Doubled.output_type = output
    for attribute, value in attributes.items():
        setattr(Doubled, attribute, value)
    return Doubled()


def test_a_batch_is_one_run_and_a_bad_input_fails_alone() -> None:
    model = of(list[float])
    assert compute(model, [[1.0], [2.0]]) == [[2.0], [4.0]]
    assert model.ran == [2]
    good, bad = compute(model, [[1.0, 2.0], [1.0]])
    assert (good, bad) == ([2.0, 4.0], [2.0])  # of another shape, not bad: each was run alone
    assert model.ran == [2, 1, 1]


def test_where_company_matters_each_is_run_alone() -> None:
    model = of(list[float], runs_batches=False)
    assert compute(model, [[1.0], [2.0]]) == [[2.0], [4.0]]
    assert model.ran == [1, 1]


def test_columns_are_numbers_where_a_number_is_wanted() -> None:
    assert compute(of(float), [[1.0], [2.0]]) == [2.0, 4.0]
    assert compute(of(list[float]), [[1.0], [2.0]]) == [[2.0], [4.0]]


@pytest.mark.parametrize("output", [np.ndarray, Annotated[np.ndarray, ArrayOf("float64", (2,))]])
def test_outputs_are_arrays_where_arrays_are_wanted(output: Any) -> None:
    (array,) = compute(of(output), [[1.0, 2.0]])
    np.testing.assert_array_equal(array, [2.0, 4.0])


def test_a_run_that_gives_too_few_rows_is_the_models_failure() -> None:
    model = of(list[float])
    model.run = lambda encoded: encoded[:-1]
    (failure,) = compute(model, [[1.0]])
    assert isinstance(failure, ModelFailed)
    assert "its first axis must be the batch's" in failure.message


class TestModelFile:
    def test_it_lies_beside_the_module_and_is_part_of_the_version(self, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("a")
        (tmp_path / "weights").mkdir()
        (tmp_path / "weights" / "first").write_text("1")

        class Weighted(Doubling):
            name = "weighted"
            model_file = tmp_path / "weights"
            files = (tmp_path / "labels.txt",)

        assert {Path(file).name for file in Weighted.files} == {"labels.txt", "first"}
        before = Weighted.version
        (tmp_path / "weights" / "first").write_text("2")

        class Again(Doubling):
            name = "weighted"
            model_file = tmp_path / "weights"
            files = (tmp_path / "labels.txt",)

        assert before != Again.version

    def test_a_relative_one_is_found_from_anywhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Beside(Doubling):
            name = "beside"
            version = "1"
            model_file = "test_adapter.py"

        class Further(Beside):
            name = "further"

        monkeypatch.chdir(tmp_path)
        assert Beside.model_path() == Further.model_path() == Path(__file__).resolve()

    def test_without_one_it_is_said_how_to_name_it(self) -> None:
        with pytest.raises(Misconfigured, match=r"class Doubling: say which model it is: model_file"):
            Doubling.model_path()


def test_a_framework_that_is_missing_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Misconfigured, match=r"nothing_like_it is not .* pip install 'foreseen\[nothing\]'"):
        framework("nothing_like_it.io", "nothing")
    (tmp_path / "half_there.py").write_text("import what_it_needs_itself")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="what_it_needs_itself"):
        framework("half_there", "half")
