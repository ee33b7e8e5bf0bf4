"""Tells the cache what this process has measured of its models."""

from __future__ import annotations

import logging
import threading
from typing import Final

from foreseen.cache import Cache
from foreseen.errors import CacheUnavailable
from foreseen.flights import Flights
from foreseen.measures import Measures

__all__ = ["Measuring"]

log = logging.getLogger("foreseen.worker")

#: As producers do.
_EVERY_S: Final = 2.0
#: A process that ends need not wait for a cache that is away.
_LAST_S: Final = 1.0


class Measuring:
    """A thread that tells every other second, if there is anything to tell; what the cache does not take is dropped.

    A process that computes has one of its own: in a prefork pool the parent does not see what its children measure.

    Args:
        cache: of this process.
        flights: builds the calls.
        measures: of this process.
    """

    def __init__(self, cache: Cache, flights: Flights, measures: Measures) -> None:
        self._cache = cache
        self._flights = flights
        self._measures = measures
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreseen-measuring", daemon=True)

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def stop(self) -> None:
        """Tell what is left, and stop."""
        self._stopping.set()
        self._thread.join(_LAST_S)

    def _run(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            self._tell()
        self._tell()

    def _tell(self) -> None:
        measured = self._measures.take()
        if not measured:
            return
        try:
            self._cache.run([self._flights.measure(model_id, fields) for model_id, fields in measured.items()])
        except CacheUnavailable:
            log.debug("measures not told")  # that the cache is away is said once, and not here
        except Exception:
            log.exception("measures not told")
