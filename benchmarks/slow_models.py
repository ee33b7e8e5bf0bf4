"""Models that take time."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.costs import SLEEP_S, compute_on_device
from workers import Batching, CachePolicy, Model

__all__ = ["Device", "Sleeper"]


class Sleeper(Model[str, str]):
    """Takes 20 ms for one, and one at a time."""

    name = "bench-sleeper"
    version = "1"
    cache = CachePolicy(expiry_s=3600)
    batching = Batching(max_batch_size=1)

    def predict(self, batch: Sequence[str]) -> list[str]:
        """Give back the batch, of one."""
        time.sleep(SLEEP_S)
        return list(batch)


class Device(Model[str, str]):
    """Costs little more for many than for one."""

    name = "bench-device"
    version = "1"
    cache = CachePolicy(expiry_s=3600)
    batching = Batching(max_batch_size=64)

    def predict(self, batch: Sequence[str]) -> list[str]:
        """Give back the batch."""
        compute_on_device(len(batch))
        return list(batch)
