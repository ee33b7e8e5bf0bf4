"""Models that say with whom an item was computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from served.slow import Slow
from workers import Batching, Limits


class Together(Slow):
    """Like `Slow`, one item after the other; each output names the values of its whole call."""

    name = "together"
    batching = Batching(max_batch_size=8)

    def predict(self, batch: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Exception]:
        values = [request.get("value") for request in batch]
        return [
            outcome if isinstance(outcome, Exception) else outcome | {"together": values}
            for outcome in super().predict(batch)
        ]


class Patient(Together):
    """Lets what comes while it computes wait until it has done so, however long that takes."""

    name = "patient"
    batching = Batching(max_batch_size=8, max_wait_s=600)


class Brief(Patient):
    """And may not take long."""

    name = "brief"
    limits = Limits(compute_s=3.0)
