"""Forgetting entries: of one key, of a tag, of a model; as steps. What is kept near is forgotten at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from foreseen.client.asking import CHUNK, Asking
from foreseen.client.effects import Steps
from foreseen.client.entries import Entries
from foreseen.client.tagging import Index
from foreseen.flights import Flights
from foreseen.keys import BUCKETS, Key

__all__ = ["Forgetting"]


class Forgetting:
    """Invalidates and purges.

    Args:
        flights: builds the calls.
        asking: sends them.
        entries: whose near cache is told.
    """

    def __init__(self, flights: Flights, asking: Asking, entries: Entries) -> None:
        self._flights = flights
        self._space = flights.space
        self._asking = asking
        self._entries = entries

    def keys(self, keys: Sequence[Key]) -> Steps[list[bool]]:
        """Forget the entries of keys; tell of each whether there was one."""
        try:
            return (yield from self._asking.ask(list(map(self._flights.invalidate, keys))))
        finally:  # whatever is said of it: it may have been done
            self._tell_near(map(self._space.entry, keys))

    def tag(self, tag: str) -> Steps[int]:
        """Forget the entries of all keys that were submitted with a tag; return how many there were.

        Raises:
            InvalidInput: it is no tag.
            CacheUnavailable: some may have been forgotten; do it again.
        """
        index = Index(self._space, tag)
        yield from index.open()
        forgotten = 0
        while keys := (yield from index.page()):
            for start in range(0, len(keys), CHUNK):
                forgotten += sum((yield from self.keys(keys[start : start + CHUNK])))
        return forgotten

    def models(self, model_ids: Iterable[str]) -> Steps[None]:
        """Forget every entry of each `model@version`."""
        for model_id in model_ids:
            try:
                yield from self._asking.ask([self._flights.purge(model_id, bucket) for bucket in BUCKETS])
            finally:
                self._tell_near(self._space.generation_of(model_id, bucket) for bucket in BUCKETS)

    def _tell_near(self, names: Iterable[str]) -> None:
        if self._entries.near is not None:
            self._entries.near.invalidated(names)
