"""What a model is warmed up with, and what of that keeps it from taking work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from foreseen.errors import InputRefused, InvalidOutput, Misconfigured, ModelFailed
from foreseen.settings import Settings
from workers.model import Model
from workers.policies import Batching
from workers.runtime import Runtime
from workers.wanted import wanted
from workers.warm_up import warm_up


class Upper(Model[str, str]):
    name = "upper"
    version = "1"
    batching = Batching(max_batch_size=2)
    examples = ("a", "b", "c")
    seen: ClassVar[list[list[str]]] = []

    def predict(self, batch: Sequence[str]) -> list[Any]:
        self.seen.append(list(batch))
        return [text.upper() for text in batch]


def test_examples_are_computed_in_batches_of_the_models_size() -> None:
    Upper.seen.clear()
    assert warm_up(Upper()) == 3
    assert Upper.seen == [["a", "b"], ["c"]]


def test_a_model_without_examples_computes_nothing() -> None:
    class Cold(Upper):
        name = "cold"
        examples = ()

    Upper.seen.clear()
    assert warm_up(Cold()) == 0
    assert Upper.seen == []


def test_an_example_that_does_not_fit_is_refused() -> None:
    class Wrong(Upper):
        name = "wrong"
        examples = (1,)

    with pytest.raises(InputRefused, match="wrong@1"):
        warm_up(Wrong())


@pytest.mark.parametrize(
    ("outputs", "error"),
    [(["A"], InvalidOutput), (["A", 2], InvalidOutput), (["A", KeyError("weights")], KeyError)],
)
def test_what_would_fail_a_request_fails_the_warm_up(outputs: list[Any], error: type[Exception]) -> None:
    class Broken(Upper):
        name = "broken"

        def predict(self, batch: Sequence[str]) -> list[Any]:
            return outputs[: len(batch)] if len(outputs) > 1 else outputs

    with pytest.raises(error):
        warm_up(Broken())


def test_a_model_may_ask_whether_its_examples_are_wanted() -> None:
    class Asking(Upper):
        name = "asking"

        def predict(self, batch: Sequence[str]) -> list[Any]:
            assert wanted() == [True] * len(batch)
            return list(batch)

    warm_up(Asking())


def test_a_text_is_no_list_of_examples() -> None:
    with pytest.raises(Misconfigured, match="examples must be a list"):

        class Texts(Upper):
            examples = "abc"  # type: ignore[assignment]


def test_a_model_that_cannot_be_warmed_up_is_not_loaded() -> None:
    class Broken(Upper):
        name = "broken"

        def predict(self, batch: Sequence[str]) -> list[Any]:
            raise OSError(f"no weights for {len(batch)}")

    failed = Runtime(Settings(), {"broken@1": Broken}).model("broken@1")
    assert isinstance(failed, ModelFailed)
    assert str(failed) == "broken@1 could not be warmed up: OSError: no weights for 2"


def test_a_model_whose_files_have_changed_since_it_was_found_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New weights must never be answered for under the version of the old ones: a process may start late."""
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"old")
    (tmp_path / "weighed.py").write_text(
        "from pathlib import Path\nfrom workers import Model\n"
        "class Weighed(Model[str, str]):\n    name = 'weighed'\n    files = ('weights.bin',)\n"
        "    def predict(self, batch):\n        return list(batch)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import weighed  # type: ignore[import-not-found]

    try:
        model_id = weighed.Weighed.model_id()
        assert isinstance(Runtime(Settings(), {model_id: weighed.Weighed}).model(model_id), Model)
        weights.write_bytes(b"new")
        failed = Runtime(Settings(), {model_id: weighed.Weighed}).model(model_id)
        assert isinstance(failed, ModelFailed)
        assert "have changed since the worker found them" in str(failed)
        weights.write_bytes(b"old")
        assert isinstance(Runtime(Settings(), {model_id: weighed.Weighed}).model(model_id), Model)
    finally:
        del sys.modules["weighed"]


def test_a_version_that_the_class_says_is_the_class_s_word() -> None:
    assert Upper.is_what_it_was()
