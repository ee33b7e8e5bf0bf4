from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters.conftest import MISSING

from foreseen.errors import Misconfigured, ModelFailed
from workers.adapters.torch import TorchModel
from workers.compute import compute
from workers.deviation import deviation

torch = pytest.importorskip("torch", reason=MISSING)


class TwoHeads(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Takes two arrays, gives two."""

    def forward(self, left: Any, right: Any) -> Any:
        return {"sum": left + right, "first": left[:, 0].to(torch.bfloat16)}


@pytest.fixture
def two_heads(tmp_path: Path) -> type[TorchModel[Any, Any]]:
    program = torch.export.export(
        TwoHeads(),
        (),
        {"left": torch.zeros(2, 3), "right": torch.zeros(2, 3)},
        dynamic_shapes={name: {0: torch.export.Dim("batch")} for name in ("left", "right")},
    )
    torch.export.save(program, tmp_path / "heads.pt2")

    class Heads(TorchModel[dict[str, Any], dict[str, Any]]):
        name = "heads"
        version = "1"
        model_file = tmp_path / "heads.pt2"

    return Heads


def test_arrays_go_and_come_by_name(two_heads: type[TorchModel[Any, Any]], loaded: Callable[..., Any]) -> None:
    batch = [{"left": [1.0, 2.0, number], "right": [1.0, 1.0, 1.0]} for number in (0.0, 0.5)]
    assert compute(loaded(two_heads), batch) == [
        {"sum": [2.0, 3.0, 1.0], "first": 1.0},
        {"sum": [2.0, 3.0, 1.5], "first": 1.0},
    ]


def test_one_bad_input_of_a_batch_fails_alone(
    two_heads: type[TorchModel[Any, Any]], loaded: Callable[..., Any]
) -> None:
    good = {"left": [0.0] * 3, "right": [0.0] * 3}
    first, short, unnamed, last = compute(loaded(two_heads), [good, {**good, "left": [0.0]}, {"left": [0.0] * 3}, good])
    assert first == last == {"sum": [0.0] * 3, "first": 0.0}
    assert isinstance(short, ModelFailed)
    assert isinstance(unnamed, ModelFailed)


def test_a_torchscript_module_gives_what_the_exported_program_gives(
    examples: Path, tmp_path: Path, loaded: Callable[..., Any]
) -> None:
    from sklearn.datasets import load_digits

    network = importlib.import_module("network").Network
    program = torch.export.load(examples / "torch" / "network.pt2").module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(program, torch.zeros(2, 64), check_trace=False).save(tmp_path / "network.pt")

    class Scripted(network):  # type: ignore[misc, valid-type]
        name = "scripted"
        model_file = tmp_path / "network.pt"

    images, digits = load_digits(return_X_y=True)
    batch = [*images[:200]]
    told, scripted = compute(loaded(network), batch), compute(loaded(Scripted), batch)
    assert np.mean([one["digit"] == digit for one, digit in zip(told, digits, strict=False)]) > 0.95
    assert max(map(deviation, told, scripted)) < 1e-6


def test_it_computes_with_as_many_threads_as_it_says(
    two_heads: type[TorchModel[Any, Any]], loaded: Callable[..., Any]
) -> None:
    two_heads.threads = 2
    loaded(two_heads)
    assert torch.get_num_threads() == 2
    two_heads.threads = 1
    loaded(two_heads)
    assert torch.get_num_threads() == 1


def test_a_file_that_is_missing_fails_the_load(tmp_path: Path, loaded: Callable[..., Any]) -> None:
    class Missing(TorchModel[Any, Any]):
        name = "missing"
        version = "1"
        model_file = tmp_path / "missing.pt2"

    with pytest.raises(Misconfigured, match=r"its model_file .*missing\.pt2 is not there"):
        loaded(Missing)


def test_a_device_that_is_not_there_fails_the_load(
    two_heads: type[TorchModel[Any, Any]], loaded: Callable[..., Any]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("it is there")
    two_heads.device = "cuda"
    # A build without CUDA says so, one with it that it finds no driver.
    with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|NVIDIA"):
        loaded(two_heads)
