"""Models on a server that speaks the Open Inference Protocol, such as MLServer, Triton or KServe.

`pip install 'foreseen[open-inference]'`. The protocol's second version over HTTP, with tensors as JSON:
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md

class Digit(OpenInferenceModel[list[float], int]):
    name = "digit"
    version = "3"
    url = "http://inference.internal:8080"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import quote

import numpy as np

from foreseen.errors import InvalidOutput, ModelFailed, TransientFailure
from workers.adapters.adapter import Adapter
from workers.adapters.framework import framework

__all__ = ["OpenInferenceModel"]

In = TypeVar("In")
Out = TypeVar("Out")

_DATATYPES: Final = {
    "bool": "BOOL",
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
}
_DTYPES: Final = {datatype: dtype for dtype, datatype in _DATATYPES.items()}
#: Beside all of 500 and above: the server was too slow or too busy just then.
_TRANSIENT: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_MAX_TOLD: Final = 300  # characters of a server's error: enough for a sentence


class OpenInferenceModel(Adapter[In, Out]):
    """A model on another server: a batch is one request there.

    The version is not known here, so say it, and change it with the server's model: else old entries answer for it.
    `decode` gets a dict of arrays by the server's names; by itself it gives rows of the one output, or dicts of rows.

    A time-out, a lost connection and an answer of 5xx, 408, 425 or 429 are a `TransientFailure` of each item, which
    `Retry` tries again; another answer that is not 2xx has the batch asked for again item by item, and fails those for
    which it comes again.

    Attributes:
        url: of the server.
        remote_name: of the model there; left out, `name`.
        remote_version: of the model there; None asks for whatever it serves.
        input_name: of the tensor, where inputs are arrays without names.
        output_names: of the tensors to ask for; none asks for what the server gives by itself.
        headers: sent with each request, such as `{"Authorization": "Bearer …"}`.
        timeout_s: that the server may take to connect, and between two signs of life of its answer.
    """

    url: ClassVar[str]
    remote_name: ClassVar[str | None] = None
    remote_version: ClassVar[str | None] = None
    input_name: ClassVar[str] = "input-0"
    output_names: ClassVar[Sequence[str]] = ()
    headers: ClassVar[Mapping[str, str]] = {}
    timeout_s: ClassVar[float] = 10.0

    def load(self) -> None:
        """Make a client; the server is first asked by the first batch, so that a worker can start before it."""
        self._httpx = httpx = framework("httpx", "open-inference")
        # One connection for each thread of the pool that computes, however many these are.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.Client(base_url=self.url, headers=self.headers, timeout=self.timeout_s, limits=limits)
        version = f"/versions/{quote(self.remote_version, safe='')}" if self.remote_version else ""
        self._path = f"/v2/models/{quote(self.remote_name or self.name, safe='')}{version}/infer"

    def unload(self) -> None:
        """Close the connections."""
        self._client.close()

    def predict(self, batch: Sequence[In]) -> Sequence[Out | Exception]:
        """Ask for a batch; what passes by itself fails every item of it, so that none is asked for alone."""
        try:
            return super().predict(batch)
        except TransientFailure as failure:
            return [failure] * len(batch)

    def run(self, encoded: Any) -> dict[str, Any]:
        """Ask for arrays by name.

        Raises:
            TransientFailure: the server could not answer just now.
            ModelFailed: it refused.
            InvalidOutput: its answer is none.
        """
        arrays = encoded if isinstance(encoded, Mapping) else {self.input_name: encoded}
        body: dict[str, Any] = {"inputs": [_tensor(name, array) for name, array in arrays.items()]}
        if self.output_names:
            body["outputs"] = [{"name": name} for name in self.output_names]
        try:
            response = self._client.post(self._path, json=body)
        except self._httpx.TransportError as error:
            raise TransientFailure(
                f"{self.url} did not answer: {type(error).__name__}: {error}", {"type": type(error).__name__}
            ) from error
        if not response.is_success:
            raise self._failure(response)
        try:
            return {one["name"]: _array(one) for one in response.json()["outputs"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidOutput(
                f"{self.url} answered with no outputs of the Open Inference Protocol: {type(error).__name__}: {error}"
            ) from error

    def decode(self, results: Any, batch: Sequence[In]) -> Sequence[Out | Exception]:
        """Return rows of the one output, or dicts of them; see `Adapter.decode`."""
        return super().decode(next(iter(results.values())) if len(results) == 1 else results, batch)

    def _failure(self, response: Any) -> ModelFailed | TransientFailure:
        passes = response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status_code in _TRANSIENT
        kind = TransientFailure if passes else ModelFailed
        return kind(
            f"{self.url}{self._path} answered {response.status_code}: {_told(response)}",
            {"status": response.status_code},
        )


def _tensor(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    datatype = _DATATYPES.get(array.dtype.name)
    if datatype is None:
        raise TypeError(f"the protocol has no tensors of {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("an input has NaN or infinity, which JSON cannot hold")
    return {"name": name, "shape": [*array.shape], "datatype": datatype, "data": array.ravel().tolist()}


def _array(tensor: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Return an output's tensor; one of BYTES, which are texts in JSON, as an array of those."""
    dtype = _DTYPES.get(tensor["datatype"], "object")
    return np.asarray(tensor["data"], dtype).reshape(tensor["shape"])


def _told(response: Any) -> str:
    """Return what the server says went wrong, shortened: the protocol's `error`, or the body."""
    try:
        told = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        told = response.text
    return str(told)[:_MAX_TOLD]
