from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters.conftest import MISSING

from foreseen.errors import Misconfigured, ModelFailed
from workers.adapters.sklearn import SklearnModel
from workers.compute import compute

pytest.importorskip("skops", reason=MISSING)


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """Return the file of a logistic regression: is the number above 1.5?"""
    import skops.io
    from sklearn.linear_model import LogisticRegression

    path = tmp_path / "line.skops"
    skops.io.dump(LogisticRegression(C=100).fit([[0.0], [1.0], [2.0], [3.0]], ["low", "low", "high", "high"]), path)
    return path


def of_line(line: Path, out: Any, **attributes: Any) -> type[SklearnModel[Any, Any]]:
    class Line(SklearnModel[list[float], out]):  # type: ignore[valid-type]
        name = "line"
        version = "1"
        model_file = line

    for name, value in attributes.items():
        setattr(Line, name, value)
    return Line


def test_an_estimator_predicts_labels_or_what_its_method_gives(line: Path, loaded: Callable[..., Any]) -> None:
    assert compute(loaded(of_line(line, str)), [[0.0], [3.0]]) == ["low", "high"]
    chances = compute(loaded(of_line(line, list[float], method="predict_proba")), [[0.0], [3.0]])
    assert [np.argmax(each) for each in chances] == [1, 0]
    (array,) = compute(loaded(of_line(line, np.ndarray, method="predict_proba")), [[0.0]])
    assert isinstance(array, np.ndarray)


def test_one_bad_row_of_a_batch_fails_alone(line: Path, loaded: Callable[..., Any]) -> None:
    first, wide, nan, last = compute(loaded(of_line(line, str)), [[0.0], [0.0, 1.0], [float("nan")], [3.0]])
    assert (first, last) == ("low", "high")
    assert isinstance(wide, ModelFailed)
    assert isinstance(nan, ModelFailed)
    assert "NaN" in nan.message


def test_a_method_that_is_not_there_fails_the_load(line: Path, loaded: Callable[..., Any]) -> None:
    with pytest.raises(Misconfigured, match=r"a LogisticRegression has no transform\(\)"):
        loaded(of_line(line, str, method="transform"))


class Opened:
    """Leaves a mark when it is built from a file."""

    marks: Path

    def __setstate__(self, state: Any) -> None:
        type(self).marks.touch()


def test_types_that_are_not_trusted_fail_the_load_before_anything_of_them_runs(
    tmp_path: Path, loaded: Callable[..., Any]
) -> None:
    import skops.io

    Opened.marks = tmp_path / "opened"
    path = tmp_path / "foreign.skops"
    skops.io.dump(Opened(), path)
    name = f"{Opened.__module__}.Opened"
    with pytest.raises(Misconfigured, match=r"holds types that are not trusted: .*Opened.*trusted = \["):
        loaded(of_line(path, str))
    assert not Opened.marks.exists()
    with pytest.raises(Misconfigured, match=r"has no predict\(\)"):
        loaded(of_line(path, str, trusted=(name,)))


def test_a_png_image_goes_in_and_a_digit_comes_out(examples: Path, loaded: Callable[..., Any]) -> None:
    del examples
    from sklearn.datasets import load_digits

    forest = importlib.import_module("forest")
    model = loaded(forest.Forest)
    images, digits = load_digits(return_X_y=True)
    assert np.array_equal(np.round(forest.pixels(forest.png_of(images[0]))), images[0])
    told = compute(model, [forest.png_of(image) for image in images])
    assert np.mean(told == digits) > 0.95
    (broken,) = compute(model, [b"no image"])
    assert broken.message == "ValueError: the input is no PNG image"
