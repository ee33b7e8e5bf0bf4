"""A model whose time is known, and whose processor time is next to none."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from workers import Batching, CachePolicy, Model

__all__ = ["BATCH_S", "ITEM_S", "Timed"]

ITEM_S: Final = 0.002
BATCH_S: Final = 0.005


class Timed(Model[str, str]):
    """Takes 5 ms for a batch and 2 ms for each item of it."""

    name = "scale-timed"
    version = "1"
    cache = CachePolicy(expiry_s=3600)
    batching = Batching(max_batch_size=64, max_wait_s=0)

    def predict(self, batch: Sequence[str]) -> list[str]:
        """Give back the batch."""
        time.sleep(BATCH_S + ITEM_S * len(batch))
        return list(batch)
