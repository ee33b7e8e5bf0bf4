"""An adapter: a model whose batches a framework computes as arrays."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, TypeVar, get_args, get_origin

import numpy as np

from foreseen.errors import Misconfigured
from workers.adapters.arrays import rows, stacked
from workers.model import Model

__all__ = ["Adapter"]

In = TypeVar("In")
Out = TypeVar("Out")


_SCALARS: Final = (bool, int, float, str)
_COLUMN: Final = 2  # dimensions: items, and what each has


class Adapter(Model[In, Out]):
    """A model in three steps, of which the framework's is given: `encode`, `run`, `decode`.

    Attributes:
        model_file: the trained model, a file or a folder; a relative one lies beside the module. A part of the version.
        floats: the dtype that floating-point numbers of inputs get, such as "float32"; None leaves it.
        runs_batches: False has `run` get one item at a time: for models that compute an item differently in company,
            such as dynamically quantized ones, and for graphs that were made for a batch of 1.
    """

    model_file: ClassVar[Path | str]
    floats: ClassVar[str | None] = None
    runs_batches: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "model_file" in cls.__dict__:
            path = cls.model_path()
            within = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
            cls.files = (*cls.__dict__.get("files", ()), *within)

    @classmethod
    def model_path(cls) -> Path:
        """Return where `model_file` is.

        Raises:
            Misconfigured: the class names none.
        """
        owner = next((base for base in cls.__mro__ if "model_file" in base.__dict__), None)
        if owner is None:
            raise Misconfigured(f"class {cls.__qualname__}: say which model it is: model_file = 'digits.onnx'")
        module: str | None = getattr(sys.modules.get(owner.__module__), "__file__", None)
        here = Path(module).resolve().parent if module else Path.cwd()
        return here / cls.model_file

    def encode(self, batch: Sequence[In]) -> Any:
        """Return what `run` takes for a batch: here one array, or one for each name that the inputs have."""
        return stacked(batch, self.floats)

    @abstractmethod
    def run(self, encoded: Any) -> Any:
        """Have the framework compute what `encode` gave."""

    def decode(self, results: Any, batch: Sequence[In]) -> Sequence[Out | Exception]:
        """Return an output for each input: here its rows, as numbers, lists of them, or arrays where `Out` is one.

        Where `Out` is a number or a text, a row of one is that one: many frameworks give columns.

        Args:
            results: what `run` gave.
            batch: the inputs.
        """
        if self.output_type in _SCALARS and np.ndim(results) == _COLUMN and np.shape(results)[1] == 1:
            results = np.ravel(results)
        return rows(results, len(batch), as_arrays=_is_array(self.output_type))

    def predict(self, batch: Sequence[In]) -> Sequence[Out | Exception]:
        """Compute a batch: encode, run, decode."""
        if self.runs_batches or len(batch) == 1:
            return self.decode(self.run(self.encode(batch)), batch)
        return [output for one in batch for output in self.decode(self.run(self.encode([one])), [one])]


def _is_array(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint is np.ndarray or get_origin(hint) is np.ndarray
