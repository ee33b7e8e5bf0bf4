from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from foreseen.errors import InputRefused, Misconfigured, ModelFailed
from workers import Batching, CachePolicy, as_model
from workers.compute import compute
from workers.functions import model_of
from workers.registry import find_models


class Point(BaseModel):
    x: int
    y: int = 0


@as_model(version="1")
def shout_it(text: str) -> str:
    """Shout."""
    if not text:
        raise ValueError("nothing to shout")
    return text.upper()


@as_model(name="norm", version="2", batch=True, cache=CachePolicy(expiry_s=5), examples=[{"x": 1}])
def norms(points: Sequence[Point]) -> list[int | Exception]:
    return [each.x + each.y if each.x >= 0 else ValueError("negative") for each in points]


def test_a_function_stays_a_function_and_is_a_model() -> None:
    assert shout_it("a") == "A"
    model = model_of(shout_it)
    assert model is not None
    assert model.model_id() == "shout-it@1"
    assert (model.input_type, model.output_type, model.__doc__) == (str, str, "Shout.")
    assert model.is_complete()


def test_one_bad_input_fails_alone_and_the_others_are_computed_once() -> None:
    calls: list[str] = []

    @as_model(version="1")
    def once(text: str) -> str:
        calls.append(text)
        return shout_it(text)

    made = model_of(once)
    assert made is not None
    first, bad, last = compute(made(), ["a", "", "b"])
    assert (first, last) == ("A", "B")
    assert isinstance(bad, ModelFailed)
    assert bad.message == "ValueError: nothing to shout"
    assert calls == ["a", "", "b"]


def test_memory_that_runs_out_is_no_outcome_of_an_input_and_ends_the_batch() -> None:
    calls: list[str] = []

    @as_model(version="1")
    def greedy(text: str) -> str:
        calls.append(text)
        raise MemoryError(text)

    made = model_of(greedy)
    assert made is not None
    with pytest.raises(MemoryError):
        compute(made(), ["a", "b"])
    assert calls == ["a"]


def test_a_function_of_a_batch_gets_instances_and_may_put_exceptions_in_places() -> None:
    model = model_of(norms)
    assert model is not None
    assert (model.name, model.cache.expiry_s, model.examples) == ("norm", 5, [{"x": 1}])
    assert (model.input_type, model.output_type) == (Point, int)
    good, bad, unfit = compute(model(), [{"x": 1, "y": 2}, {"x": -1}, {"x": "no"}])
    assert good == 3
    assert isinstance(bad, ModelFailed)
    assert isinstance(unfit, InputRefused)


def test_a_function_of_one_input_waits_for_no_others() -> None:
    one, many = model_of(shout_it), model_of(norms)
    assert one is not None
    assert many is not None
    assert one.batching == Batching(max_wait_s=0)
    assert many.batching == Batching()


def without_annotations(text):  # noqa: ANN001, ANN201
    return text


def without_output(text: str):  # noqa: ANN201
    return text


def of_two(one: str, other: str) -> str:
    return one + other


def of_a_name(text: Missing) -> str:  # noqa: F821
    return text


async def of_a_coroutine(text: str) -> str:
    return text


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (without_annotations, r"say what goes in and what comes out: without_annotations\(text: str\) -> str"),
        (without_output, "say what goes in and what comes out"),
        (of_two, "a model has one input: put several into a pydantic model or a dict"),
        (of_a_name, "names a type that is not defined"),
        (of_a_coroutine, "not of a coroutine"),
        (str.upper, "a plain function"),
    ],
)
def test_what_can_be_no_model_says_what_would(function: Any, told: str) -> None:
    with pytest.raises(Misconfigured, match=told):
        as_model(function)


def test_a_batch_is_a_sequence() -> None:
    with pytest.raises(Misconfigured, match=r"with batch=True it takes and returns a Sequence"):
        as_model(batch=True)(shout_it)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(Misconfigured, match="name"):
        as_model(name="no name")(new_function())


def new_function() -> Any:
    def plain(text: str) -> str:
        return text

    return plain


MODULE = """
from workers import as_model

@as_model
def shout(text: str) -> str:
    return text.upper()

@as_model(name="whisper", version="1")
def hush(text: str) -> str:
    return text.lower()
"""


def test_functions_are_found_in_their_module_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "voices.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        found = find_models(["voices"])
        assert found.errors == {}
        shout, whisper = found.models
        assert whisper == "whisper@1"
        assert shout.startswith("shout@")
        assert [*find_models(["voices:hush"]).models] == ["whisper@1"]
    finally:
        del sys.modules["voices"]


def test_a_functions_version_is_its_files_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    versions: list[str] = []
    for change in ("", "# changed\n"):
        (tmp_path / "voices_of_files.py").write_text(MODULE + change)
        try:
            versions += [each for each in find_models(["voices_of_files"]).models if each.startswith("shout@")]
        finally:
            del sys.modules["voices_of_files"]
    assert len({*versions}) == 2
