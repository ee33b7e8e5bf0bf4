"""Which version a bare name means: moved to what this command serves, unless somebody else serves another one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from foreseen import cards
from foreseen.cache import Cache
from foreseen.cli.up.served import Served
from foreseen.flights import Flights

__all__ = ["Pointers"]


class Pointers:
    """The pointers of the names served here.

    Workers only set one that is missing, so that a new worker takes no traffic by itself. Here it must: a version left
    out is a digest of the file, so that each edit makes another one, and whoever edits asks by the bare name.

    Args:
        cache: where they are.
        flights: knows their names.
    """

    def __init__(self, cache: Cache, flights: Flights) -> None:
        self._cache = cache
        self._flights = flights
        self._space = flights.space
        self._ours: set[str] = set()

    def published(self, models: Iterable[Served]) -> bool:
        """Whether all models have a card.

        Raises:
            CacheUnavailable: the cache server does not answer.
        """
        return None not in self._cache.commands([("GET", self._space.card(each.model_id)) for each in models])

    def move(self, models: Sequence[Served]) -> dict[str, str]:
        """Point each name to the version that is served here.

        Returns:
            By name, the version that others serve and that stays current.

        Raises:
            CacheUnavailable: the cache server does not answer.
        """
        here = {each.model_id for each in models}
        self._ours |= here
        versions = {each.name: each.version for each in reversed(models)}  # the first one, should there be two
        elsewhere: dict[str, str] = {}
        pointed = self._cache.commands([command for name in versions for command in cards.resolve(self._space, name)])
        for (name, version), current in zip(versions.items(), pointed, strict=True):
            there = cards.version_in(current) or ""
            current_id = f"{name}@{there}"
            if current_id in here:
                continue
            if there and current_id not in self._ours:
                (card,) = self._cache.commands(cards.read(self._space, current_id))
                if card is not None:
                    elsewhere[name] = there
                    continue
            self._cache.run([self._flights.promote(name, version)])
        return elsewhere
