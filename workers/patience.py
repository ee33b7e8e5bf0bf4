"""Round trips to the cache that are worth asking again: a task that goes back to the broker costs far more."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from foreseen import planted
from foreseen.cache import Cache
from foreseen.errors import CacheUnavailable, UnsupportedLayout
from foreseen.flights import Call

__all__ = ["insist"]

T = TypeVar("T")
log = logging.getLogger("foreseen.worker")

#: Pauses before a round trip that failed is tried again; after the last the message goes back to the broker.
_RETRY_S: Final = (0.1, 0.5, 2.0)


def insist(cache: Cache, calls: Sequence[Call[T]], patience_s: float = 0.0) -> list[T]:
    """Ask, and ask again a few times: every step may be sent twice.

    `patience_s` is what it is worth beyond that: as long as it took to compute what would be thrown away.

    Raises:
        CacheUnavailable, UnsupportedLayout: it would not be answered.
    """
    pauses, until = [*_RETRY_S], time.monotonic() + patience_s
    while True:
        try:
            return cache.run(calls)
        except (CacheUnavailable, UnsupportedLayout) as error:
            if not pauses and time.monotonic() >= until:
                raise
            pause_s = pauses.pop(0) if pauses else _RETRY_S[-1]
            level = logging.WARNING if isinstance(error, UnsupportedLayout) else logging.DEBUG  # which is said once
            log.log(level, "trying again in %g s: %s", pause_s, error)
            if isinstance(error, CacheUnavailable) and planted.is_blamed(error):
                _unplant(cache, calls)
            time.sleep(pause_s)


def _unplant(cache: Cache, calls: Sequence[Call[Any]]) -> None:
    names = planted.touched(calls)
    with suppress(CacheUnavailable):  # the step is tried again anyway
        cache.commands(planted.removals(names, cache.commands(planted.look(names))))
