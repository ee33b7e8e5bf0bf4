"""Models whose outputs are not those of their inputs, or never twice the same; and what these say of it to an audit."""

from __future__ import annotations

import random
from collections.abc import Sequence

from workers import CachePolicy, Model


class Noisy(Model[str, dict[str, object]]):
    """Says how long a text is, and a score that is off by up to 0.001."""

    name = "noisy"
    version = "1"

    def predict(self, batch: Sequence[str]) -> list[dict[str, object]]:
        return [{"length": len(text), "scores": [0.5 + random.uniform(0.0001, 0.001)]} for text in batch]


class Tolerant(Noisy):
    """Allows for that."""

    name = "tolerant"
    cache = CachePolicy(audit_tolerance=0.01)


class Unaudited(Noisy):
    """Is different by nature."""

    name = "unaudited"
    cache = CachePolicy(audit_tolerance=None)


class Shifted(Model[str, str]):
    """Gives each input of a batch its neighbour's output."""

    name = "shifted"
    version = "1"

    def predict(self, batch: Sequence[str]) -> list[str]:
        return [*batch[1:], batch[0]]
