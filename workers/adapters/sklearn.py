"""Models of scikit-learn, kept with skops and not with pickle: `pip install 'foreseen[sklearn]'`.

class Digit(SklearnModel[list[float], int]):
    name = "digit"
    model_file = "digit.skops"                 # skops.io.dump(classifier, "digit.skops")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from foreseen.errors import Misconfigured
from workers.adapters.adapter import Adapter
from workers.adapters.framework import framework

__all__ = ["SklearnModel"]

In = TypeVar("In")
Out = TypeVar("Out")


class SklearnModel(Adapter[In, Out]):
    """A model whose `model_file` skops wrote: an estimator or a pipeline.

    Inputs are rows of features: lists of numbers or arrays. An output is what `method` gives for a row.

    Attributes:
        trusted: names of further types that the file may hold, beside those that skops trusts: most of scikit-learn's
            and numpy's. A file that holds others fails the model's load, which names them; nothing of it runs.
        method: of the estimator: `predict`, `predict_proba`, `decision_function`, `transform`.
        threads: that one call computes with; 1 where a pool has a process or a thread for each core already.
    """

    trusted: ClassVar[Sequence[str]] = ()
    method: ClassVar[str] = "predict"
    threads: ClassVar[int] = 1

    def load(self) -> None:
        """Build the estimator from its file."""
        skops = framework("skops.io", "sklearn")
        path = self.model_path()
        if not path.is_file():
            raise Misconfigured(f"{self.model_id()}: its model_file {path} is not there")
        if unknown := sorted({*skops.get_untrusted_types(file=path)} - {*self.trusted}):
            raise Misconfigured(
                f"{self.model_id()}: {path.name} holds types that are not trusted: {', '.join(unknown)}. "
                f"If it is yours, say so: trusted = {unknown!r}"
            )
        estimator = skops.load(path, trusted=[*self.trusted])
        framework("threadpoolctl", "sklearn").threadpool_limits(self.threads)  # of BLAS and OpenMP, in this process
        method = getattr(estimator, self.method, None)
        if method is None:
            raise Misconfigured(f"{self.model_id()}: a {type(estimator).__name__} has no {self.method}()")
        self._compute = method

    def run(self, encoded: Any) -> Any:
        """Compute an array of (batch, features)."""
        return self._compute(encoded)
