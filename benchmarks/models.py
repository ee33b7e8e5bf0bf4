"""The model that the benchmarks ask: it does nothing, so that what is left is the cost of everything around it."""

from __future__ import annotations

from collections.abc import Sequence

from workers import Batching, CachePolicy, Model

__all__ = ["Echo"]


class Echo(Model[str, str]):
    """Gives back what it got."""

    name = "bench-echo"
    version = "1"
    cache = CachePolicy(expiry_s=3600)
    batching = Batching(max_batch_size=256)

    def predict(self, batch: Sequence[str]) -> list[str]:
        """Give back the batch."""
        return list(batch)
