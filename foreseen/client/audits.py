"""Audits: hits that a worker is to compute again, and compare with their entries; sent when nobody waits for it.

An audit has no flight: it is in nobody's way, changes no entry, and wherever it is lost nothing is. What a near cache
answers is not sampled: its entries are those that other look-ups find.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from typing import Final

from foreseen.canonical import CanonicalInput
from foreseen.client.catalog import Catalog
from foreseen.client.effects import Send, Steps
from foreseen.client.submission import Submission
from foreseen.errors import ForeseenError
from foreseen.flights import nonce
from foreseen.keys import Key
from foreseen.message import AUDIT, Item

__all__ = ["Audits"]

#: A sample may be dropped; inputs may be large.
_MOST: Final = 256
#: Messages that may wait in the model's queue: where more do, its workers have better to do.
_MOST_QUEUED: Final = 32
#: Items of a message: an output that depends on what else is in its batch is to be found, too.
_ALONE: Final = 1
#: After all that somebody waits for.
_PRIORITY: Final = 0


class Audits:
    """A sample of a producer's hits, until it is sent.

    Args:
        share: of the hits, above 0.
        catalog: says which models are audited.
    """

    def __init__(self, share: float, catalog: Catalog) -> None:
        self._share = share
        self._catalog = catalog
        self._waiting: deque[tuple[Key, CanonicalInput]] = deque(maxlen=_MOST)

    def note(self, answered: Submission) -> None:
        """Take a submission that an entry answered into the sample, by chance."""
        if answered.canonical is not None and random.random() < self._share:
            self._waiting.append((answered.key, answered.canonical))

    def send(self) -> Steps[None]:
        """Send what waits; what cannot be sent, or finds others waiting before it, is dropped."""
        by_model: dict[str, dict[Key, CanonicalInput]] = {}
        for _ in range(len(self._waiting)):
            try:
                key, canonical = self._waiting.popleft()
            except IndexError:  # another thread took the last one
                break
            by_model.setdefault(key.model_id, {})[key] = canonical
        for model_id, inputs in by_model.items():
            try:
                card = yield from self._catalog.card(model_id, wait_s=0)
                if card.policy.get("audit") is not True:  # the model's choice; or a release that knows no audits
                    continue
                items = [(Item(key, nonce(), 0, 0, canonical), _PRIORITY) for key, canonical in inputs.items()]
                yield Send(model_id, items, 0, _ALONE, _MOST_QUEUED, _told, AUDIT)
            except ForeseenError:
                continue


def _told(ids: Mapping[str, str]) -> None:
    """Nobody asks what became of them."""
    del ids
