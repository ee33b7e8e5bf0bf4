"""Leases of what this worker computes, renewed from a thread of the worker's own process.

With the prefork pool that process is the parent, so that a model that holds the interpreter lock for long is not taken
for dead.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from foreseen.cache import Cache
from foreseen.errors import CacheUnavailable, UnsupportedLayout
from foreseen.holding import HolderFlights
from foreseen.keys import Key

__all__ = ["Holding", "Leases"]

log = logging.getLogger("foreseen.worker")

#: A lease survives two renewals that fail.
_RENEWALS_PER_LEASE: Final = 3


@dataclass(frozen=True, slots=True)
class Holding:
    """A delivery that is being computed.

    Attributes:
        holder: its nonce.
        keys: of its items; none if it holds no flights.
        waits: it is not computed here, but waits for other predictions.
    """

    holder: str
    keys: Sequence[Key]
    waits: bool = False


class Leases:
    """Renews, every third of a lease and in one round trip, the flights of all deliveries being computed.

    Args:
        flights: builds the calls.
        cache: of this process.
    """

    def __init__(self, flights: HolderFlights, cache: Cache) -> None:
        self._flights = flights
        self._cache = cache
        self._held: dict[str, Holding] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreseen-leases", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing; what is still held lapses."""
        self._stopping.set()

    def add(self, holding: Holding) -> None:
        """Renew this from now on."""
        if holding.keys:
            self._held[holding.holder] = holding

    def remove(self, holder: str) -> None:
        """Renew this no longer."""
        self._held.pop(holder, None)

    def holds(self, model_id: str) -> bool:
        """Tell whether anything of a model is being computed."""
        return any(key.model_id == model_id for holding in list(self._held.values()) for key in holding.keys)

    def give_up(self, holding: Holding, *, died: str) -> None:
        """Hand back what a process was computing that `died` so, so that the next delivery begins at once."""
        self.remove(holding.holder)
        if not holding.keys:
            return
        try:
            self._cache.run([self._flights.give_up(key, holding.holder, died=died) for key in holding.keys])
        except (CacheUnavailable, UnsupportedLayout) as error:
            log.warning("could not give up %d flights, they lapse within a lease: %s", len(holding.keys), error)

    def _run(self) -> None:
        while not self._stopping.wait(self._flights.lease_ms / 1000 / _RENEWALS_PER_LEASE):
            calls = [
                self._flights.renew(key, holding.holder, waits=holding.waits)
                for holding in list(self._held.values())
                for key in holding.keys
            ]
            if not calls:
                continue
            try:
                self._cache.run(calls)
            except CacheUnavailable:  # that the cache is away is said once, and not here
                log.debug("could not renew %d leases, trying again", len(calls))
            except Exception:
                log.exception("renewing leases failed, trying again")
