"""Models whose policies are short enough to wait for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from served.slow import Slow
from workers import Batching, CachePolicy, FailureExpiry, Model, Retry, TransientFailure


class ShortFailure(Slow):
    """Like `Slow`; its failures are kept half a second."""

    name = "short-failure"
    cache = CachePolicy(failure_expiry_s=0.5)


class ByKind(Slow):
    """Like `Slow`; only failures that come again are kept; with `transient` it fails for the moment."""

    name = "by-kind"
    cache = CachePolicy(failure_expiry_s=FailureExpiry(permanent_s=60, transient_s=0, poison_s=60))
    retry = Retry(attempts=1)

    def predict(self, batch: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Exception]:
        outputs = super().predict(batch)
        passes = ["transient" in request for request in batch]
        return [TransientFailure("busy") if now else output for now, output in zip(passes, outputs, strict=True)]


class Choosy(Slow):
    """Like `Slow`; an output whose value is not true is not kept, and of one that is `unsayable` it cannot say."""

    name = "choosy"

    def cacheable(self, output: dict[str, Any]) -> bool:
        if output["value"] == "unsayable":
            raise RuntimeError("it cannot say")
        return bool(output["value"])


class Compressed(Slow):
    """Like `Slow`; what is larger than 1 KiB is compressed."""

    name = "compressed"
    cache = CachePolicy(compress_above_bytes=1024)


class Brief(Slow):
    """Like `Slow`; its results are kept a second."""

    name = "brief"
    cache = CachePolicy(expiry_s=1.0, jitter=0)


class Private(Slow):
    """Like `Slow`; nothing of it is kept in producers."""

    name = "private"
    cache = CachePolicy(near=False)


class Stale(Slow):
    """Like `Slow`; its results are fresh for a moment, and answer for long after that while they are refreshed."""

    name = "stale"
    cache = CachePolicy(expiry_s=0.3, stale_s=60, jitter=0, failure_expiry_s=0.2)

    def predict(self, batch: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Exception]:
        outputs = super().predict(batch)
        broken = ["break" in request and Path(request["break"]).exists() for request in batch]
        return [ValueError("broken") if now else output for now, output in zip(broken, outputs, strict=True)]


class Early(Slow):
    """Like `Slow`; its results are refreshed long before they expire: some 30 s early if it took 30 ms."""

    name = "early"
    cache = CachePolicy(expiry_s=60, jitter=0, early_refresh=1000)


class Shape(BaseModel):
    """An input with something to get wrong."""

    width: int = Field(ge=1)
    label: str


class Typed(Model[Shape, dict[str, Any]]):
    """Takes inputs of one form only."""

    name = "typed"
    version = "1"
    batching = Batching(max_batch_size=4)

    def predict(self, batch: Sequence[Shape]) -> list[dict[str, Any]]:
        return [{"area": shape.width**2} for shape in batch]
