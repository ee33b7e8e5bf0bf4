"""Of every adapter: a batch gives what each of its inputs gives alone, within what docs/adapters.md states."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters.conftest import MLServer

from workers.compute import compute
from workers.deviation import deviation
from workers.model import Model

#: Floats of single precision are summed in another order in company; what docs/adapters.md states.
SINGLE_PRECISION = 1e-6


def images(count: int = 33) -> Any:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)[0][:count]


def of_forest() -> tuple[type[Model[Any, Any]], Sequence[Any], float]:
    forest = importlib.import_module("forest")
    return forest.Forest, [forest.png_of(image) for image in images()], 0.0


def of_network() -> tuple[type[Model[Any, Any]], Sequence[Any], float]:
    return importlib.import_module("network").Network, [*images()], SINGLE_PRECISION


def of_mood() -> tuple[type[Model[Any, Any]], Sequence[Any], float]:
    mood = importlib.import_module("mood")
    texts = ["great", "The film was boring and awful, and I found it really sad", "all of it", "", "a fine day " * 10]
    return mood.MoodOfText, texts * 6, SINGLE_PRECISION


def of_magika() -> tuple[type[Model[Any, Any]], Sequence[Any], float]:
    root = Path(__file__).resolve().parents[2]
    files = [path.read_bytes() for path in sorted(root.glob("*.*")) if path.is_file()]
    return importlib.import_module("magika_onnx").MagikaOnnx, files, 0.0


def check(model: Model[Any, Any], inputs: Sequence[Any], tolerance: float) -> None:
    together = compute(model, inputs)
    alone = [compute(model, [each])[0] for each in inputs]
    backwards = compute(model, inputs[::-1])[::-1]
    assert not [outcome for outcome in together if isinstance(outcome, Exception)]
    assert len({*map(repr, together)}) > 1, "outputs that are all equal would show nothing"
    furthest = max(map(deviation, together, alone))
    print(f"{model.model_id()}: a batch of {len(inputs)} is {furthest:g} off")
    assert furthest <= tolerance
    assert max(map(deviation, together, backwards)) <= tolerance


@pytest.mark.parametrize("of", [of_forest, of_network, of_mood, of_magika], ids=lambda of: of.__name__[3:])
def test_a_batch_gives_what_each_input_gives_alone(
    examples: Path, loaded: Callable[..., Any], of: Callable[[], tuple[Any, Any, float]]
) -> None:
    del examples
    cls, inputs, tolerance = of()
    check(loaded(cls), inputs, tolerance)


def test_a_batch_gives_what_each_input_gives_alone_on_another_server(
    mlserver: MLServer, loaded: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = importlib.import_module("remote_digit").RemoteDigit
    monkeypatch.setattr(remote, "url", mlserver.url)
    check(loaded(remote), images().tolist(), 0.0)


def test_magikas_network_gives_other_scores_in_company(examples: Path, loaded: Callable[..., Any]) -> None:
    """Why its example says `runs_batches = False`."""
    del examples
    cls, inputs, _ = of_magika()
    together = type("Together", (cls,), {"runs_batches": True, "__module__": cls.__module__})
    company = compute(loaded(together), inputs)
    alone = compute(loaded(cls), inputs)
    assert max(map(deviation, company, alone)) > SINGLE_PRECISION
    assert np.mean([one["label"] == other["label"] for one, other in zip(company, alone, strict=True)]) > 0.5
