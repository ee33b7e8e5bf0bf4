"""Two models over one stage, and a third over a stage that others compute."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from served.record import record
from workers import Batching, CachePolicy, Model, Stage

_POLL_S = 0.01
_MAX_WAIT_S = 60.0  # longer than any test


class Pixels(Stage[dict[str, Any], NDArray[np.float64]]):
    """Makes four numbers of `value`; `wait_for`, `raise` and `die_unless` as those of `served.slow.Slow`."""

    name = "pixels"
    version = "1"
    batching = Batching(max_batch_size=8)

    def prepare(self, batch: Sequence[dict[str, Any]]) -> list[NDArray[np.float64] | Exception]:
        return [self._one(request) for request in batch]

    def _one(self, request: dict[str, Any]) -> NDArray[np.float64] | Exception:
        record(self.name, ("pixels", request["value"]))
        if "die_unless" in request and not Path(request["die_unless"]).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if "wait_for" in request:
            end = time.monotonic() + _MAX_WAIT_S
            while not Path(request["wait_for"]).exists() and time.monotonic() < end:
                time.sleep(_POLL_S)
        if "raise" in request:
            return ValueError(request["raise"])
        return np.asarray([request["value"] + place for place in range(4)], dtype=np.float64)


class Sums(Model[NDArray[np.float64], float]):
    """Adds up."""

    name = "sums"
    version = "1"
    preprocess = Pixels

    def predict(self, batch: Sequence[NDArray[np.float64]]) -> list[float]:
        for features in batch:
            record(self.name, ("sums", int(features[0])))
        return [float(features.sum()) for features in batch]


class Largest(Model[NDArray[np.float64], float]):
    """Tells the largest."""

    name = "largest"
    version = "1"
    preprocess = Pixels

    def predict(self, batch: Sequence[NDArray[np.float64]]) -> list[float]:
        for features in batch:
            record(self.name, ("largest", int(features[0])))
        return [float(features.max()) for features in batch]


class Unkept(Pixels):
    """Likewise, and nothing of it is kept."""

    name = "unkept-pixels"
    cache = CachePolicy(expiry_s=0)


class OverUnkept(Sums):
    """Adds up what is not kept."""

    name = "over-unkept"
    version = "1"
    preprocess = Unkept


class ApartPixels(Pixels):
    """Likewise, by workers of its own."""

    name = "apart-pixels"
    apart = True


class OverApart(Sums):
    """Adds up what others have prepared."""

    name = "over-apart"
    version = "1"
    preprocess = ApartPixels


class LargePixels(ApartPixels):
    """Likewise, and too large to be kept."""

    name = "large-pixels"

    def prepare(self, batch: Sequence[dict[str, Any]]) -> list[NDArray[np.float64] | Exception]:
        return [np.repeat(one, 25_000) for one in super().prepare(batch) if isinstance(one, np.ndarray)]


class OverLarge(Sums):
    name = "over-large"
    version = "1"
    preprocess = LargePixels
