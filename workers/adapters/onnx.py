"""Models in ONNX's format, computed by ONNX Runtime: `pip install 'foreseen[onnx]'`.

class Digit(OnnxModel[np.ndarray, Label]):
    name = "digit"
    model_file = "digit.onnx"

    def decode(self, results, batch):
        return [Label(digit=int(row.argmax()), score=float(row.max())) for row in results["probabilities"]]
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from foreseen.errors import Misconfigured
from workers.adapters.adapter import Adapter
from workers.adapters.framework import framework

__all__ = ["OnnxModel"]

In = TypeVar("In")
Out = TypeVar("Out")

#: ONNX's names of element types, and numpy's, where these differ.
_DTYPES = {"float": "float32", "double": "float64"}


class OnnxModel(Adapter[In, Out]):
    """A model whose `model_file` is ONNX.

    Inputs are one array, for a graph with one input, or arrays by the graph's names. They are given in the types that
    the graph declares, where no range is lost by that. `decode` gets a dict of arrays by the graph's names for its
    outputs; by itself it gives rows of the one output, or dicts of rows if there are several.

    Attributes:
        threads: that one call computes with; 1 where a pool has a process or a thread for each core already.
        providers: ONNX Runtime's names for what it computes on, the preferred one first. One that is not there here
            fails the model's load, rather than computing on another.
    """

    threads: ClassVar[int] = 1
    providers: ClassVar[Sequence[str]] = ("CPUExecutionProvider",)

    def load(self) -> None:
        """Open the graph: in the process that computes, since ONNX Runtime's threads do not survive a fork."""
        # Before its import, which is when ONNX Runtime begins to gather what it would send to its makers.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        onnxruntime = framework("onnxruntime", "onnx")
        onnxruntime.disable_telemetry_events()
        if missing := [name for name in self.providers if name not in onnxruntime.get_available_providers()]:
            there = ", ".join(onnxruntime.get_available_providers())
            raise Misconfigured(f"{self.model_id()}: ONNX Runtime has no {', '.join(missing)} here; it has {there}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        path = self.model_path()
        if not path.is_file():
            raise Misconfigured(f"{self.model_id()}: its model_file {path} is not there")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=[*self.providers])
        self._inputs = {one.name: _dtype(one.type) for one in self._session.get_inputs()}
        self._outputs = [one.name for one in self._session.get_outputs()]

    def run(self, encoded: Any) -> dict[str, Any]:
        """Compute arrays by name."""
        feed = encoded if isinstance(encoded, Mapping) else {next(iter(self._inputs)): encoded}
        if feed.keys() != self._inputs.keys():
            raise ValueError(f"the graph takes {', '.join(self._inputs)}, and was given {', '.join(feed)}")
        feed = {name: _given_as(array, self._inputs[name]) for name, array in feed.items()}
        return dict(zip(self._outputs, self._session.run(None, feed), strict=True))

    def decode(self, results: Any, batch: Sequence[In]) -> Sequence[Out | Exception]:
        """Return rows of the graph's one output, or dicts of them; see `Adapter.decode`."""
        (alone, *more) = results.values()
        return super().decode(results if more else alone, batch)


def _dtype(declared: str) -> np.dtype[Any] | None:
    """Return the element type of a declaration such as `tensor(float)`; None for what numpy has none for."""
    name = declared.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype(_DTYPES.get(name, name))
    except TypeError:
        return None


def _given_as(array: Any, dtype: np.dtype[Any] | None) -> Any:
    """Return an array in the declared type: floats of any width, and integers that fit it."""
    if dtype is None or array.dtype == dtype:
        return array
    converted = array.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(converted, array):
        raise ValueError(f"the graph takes {dtype}, and not every number of the input ({array.dtype}) is one")
    return converted
