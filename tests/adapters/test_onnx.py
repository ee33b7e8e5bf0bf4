from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters.conftest import MISSING

from foreseen.errors import Misconfigured, ModelFailed
from workers.adapters.onnx import OnnxModel
from workers.compute import compute

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Return a graph of two inputs and two outputs: (single-precision a + b, a rounded)."""
    onnx = pytest.importorskip("onnx", reason=MISSING)
    make, types = onnx.helper, onnx.TensorProto
    nodes = [
        make.make_node("Cast", ["b"], ["wide"], to=types.FLOAT),
        make.make_node("Add", ["a", "wide"], ["sum"]),
        make.make_node("Cast", ["a"], ["whole"], to=types.INT64),
    ]
    inputs = [
        make.make_tensor_value_info("a", types.FLOAT, ["n", 3]),
        make.make_tensor_value_info("b", types.INT32, ["n", 3]),
    ]
    outputs = [
        make.make_tensor_value_info("sum", types.FLOAT, ["n", 3]),
        make.make_tensor_value_info("whole", types.INT64, ["n", 3]),
    ]
    made = make.make_model(
        make.make_graph(nodes, "two", inputs, outputs), opset_imports=[make.make_opsetid("", 17)], ir_version=8
    )
    onnx.checker.check_model(made)
    path = tmp_path / "two.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def of_two(graph: Path, **attributes: Any) -> type[OnnxModel[Any, Any]]:
    class Two(OnnxModel[dict[str, Any], dict[str, Any]]):
        name = "two"
        version = "1"
        model_file = graph

    for name, value in attributes.items():
        setattr(Two, name, value)
    return Two


def test_inputs_go_by_the_graphs_names_and_come_in_its_types(graph: Path, loaded: Callable[..., Any]) -> None:
    model = loaded(of_two(graph))
    batch = [{"a": [1.5, 2.0, number], "b": [1, 0, 0]} for number in range(3)]
    assert compute(model, batch) == [{"sum": [2.5, 2.0, float(number)], "whole": [1, 2, number]} for number in range(3)]


def test_one_bad_input_of_a_batch_fails_alone(graph: Path, loaded: Callable[..., Any]) -> None:
    model = loaded(of_two(graph))
    good = {"a": [0.0, 0.0, 0.0], "b": [0, 0, 0]}
    short = {"a": [0.0, 0.0], "b": [0, 0, 0]}
    broken = {"a": [0.0, 0.0, 0.0], "b": [0, 0, 0.5]}
    beyond = {"a": [0.0, 0.0, 0.0], "b": [0, 0, 2**40]}
    other = {"a": [0.0, 0.0, 0.0]}
    words = {"a": ["x", "y", "z"], "b": [0, 0, 0]}
    first, *bad, last = compute(model, [good, short, broken, beyond, other, words, good])
    assert first == last == {"sum": [0.0] * 3, "whole": [0] * 3}
    assert all(isinstance(each, ModelFailed) for each in bad)
    told = " | ".join(each.message for each in bad)
    assert "the graph takes int32, and not every number of the input (float64) is one" in told
    assert "the graph takes int32, and not every number of the input (int64) is one" in told
    assert "the graph takes a, b, and was given a" in told
    assert "no array of numbers" in told


def test_a_provider_that_is_not_there_fails_the_load(graph: Path, loaded: Callable[..., Any]) -> None:
    with pytest.raises(Misconfigured, match=r"has no TensorrtExecutionProvider here; it has .*CPUExecutionProvider"):
        loaded(of_two(graph, providers=("TensorrtExecutionProvider", "CPUExecutionProvider")))


def test_a_file_that_is_missing_fails_the_load_and_the_digest(tmp_path: Path, loaded: Callable[..., Any]) -> None:
    missing = of_two(tmp_path / "missing.onnx")
    with pytest.raises(Misconfigured, match=r"its model_file .*missing\.onnx is not there"):
        loaded(missing)

    class NoFile(OnnxModel[bytes, int]):
        name = "no-file"
        version = "1"

    with pytest.raises(Misconfigured, match="say which model it is"):
        loaded(NoFile)


def test_threads_are_as_many_as_it_says(graph: Path, loaded: Callable[..., Any]) -> None:
    def threads(model: Any) -> int:
        return int(model._session.get_session_options().intra_op_num_threads)

    assert threads(loaded(of_two(graph))) == 1
    assert threads(loaded(of_two(graph, threads=3))) == 3


def test_the_version_is_a_digest_of_the_model_file_too(graph: Path) -> None:
    class First(OnnxModel[dict[str, Any], dict[str, Any]]):
        name = "first"
        model_file = graph

    first = First.version
    graph.write_bytes(graph.read_bytes() + b"\0")

    class Second(OnnxModel[dict[str, Any], dict[str, Any]]):
        name = "first"
        model_file = graph

    assert first != Second.version


def test_magikas_network_tells_what_magika_tells(examples: Path, loaded: Callable[..., Any]) -> None:
    """The generic adapter, on the file of the installed package, against the package's own code."""
    del examples
    from magika import Magika

    model = loaded(importlib.import_module("magika_onnx").MagikaOnnx)
    magika = Magika()
    files = [path for path in sorted(ROOT.glob("*.*")) + sorted(ROOT.glob("docs/*.*")) if path.is_file()]
    contents = [path.read_bytes() for path in files] + [b"\n\n  #!/bin/sh\n# a\nset -e\n  "]
    told = [output for start in range(0, len(contents), 16) for output in compute(model, contents[start : start + 16])]
    assert len({each["label"] for each in told}) > 5
    for content, mine in zip(contents, told, strict=True):
        theirs = magika.identify_bytes(content).prediction
        assert mine["label"] == theirs.dl.label
        assert np.float32(mine["score"]) == np.float32(theirs.score)
