"""A model of half a second, under three policies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from workers import CachePolicy, Model

__all__ = ["COST_S", "EXPIRY_S", "Early", "Plain", "Stale"]

COST_S: Final = 0.5
EXPIRY_S: Final = 6.0


class Plain(Model[str, str]):
    """Its results expire, and who asks next waits."""

    name = "hot-plain"
    version = "1"
    cache = CachePolicy(expiry_s=EXPIRY_S, jitter=0)

    def predict(self, batch: Sequence[str]) -> list[str]:
        """Give back the batch."""
        time.sleep(COST_S)
        return list(batch)


class Stale(Plain):
    """Its results answer past their expiry while they are computed again."""

    name = "hot-stale"
    cache = CachePolicy(expiry_s=EXPIRY_S, stale_s=60, jitter=0)


class Early(Plain):
    """Its results are computed again before they expire."""

    name = "hot-early"
    cache = CachePolicy(expiry_s=EXPIRY_S, early_refresh=1, jitter=0)
