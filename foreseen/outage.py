"""What a process knows of its cache server's troubles: told once when one begins and once when it is over, and counted.

An outage begins with the first call that fails and ends with the first that succeeds; a server that answers, but
refuses some calls (a full one, a replica), answers others in between, and is well once it has refused none for a while.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from foreseen.errors import CacheUnavailable

__all__ = ["Outage", "Outages"]

log = logging.getLogger("foreseen.cache")

#: A server that refuses is well when it has refused nothing for this long; by then an idle producer too has asked it
#: something, since it looks at cards as often.
_QUIET_S: Final = 5.0
#: While failing takes long, one call in this time finds out whether it still does; the others are told at once.
_TRY_AGAIN_S: Final = 1.0
#: A failure that took less is worth another try by everybody: a refused connection costs a tenth of a millisecond.
_LONG_S: Final = 0.1


class Outages(NamedTuple):
    """What was counted since the process's connection to the cache was made.

    Attributes:
        outages: how often the cache went away, or began to refuse.
        calls_failed: calls that were told so.
        away_s: how long it was away, all outages together; the one that lasts counts up to now.
        is_away: there is one now.
        sent_without: submissions that were sent to be computed without the cache.
    """

    outages: int
    calls_failed: int
    away_s: float
    is_away: bool
    sent_without: int = 0


class Outage:
    """The state of one cache server, as one process has seen it. Safe for threads.

    Args:
        where: the server, for messages; without a password.
        breaks: tell callers at once while failing takes long, but for one a second; otherwise each finds out himself.
        clock: monotonic seconds.
    """

    def __init__(self, where: str, *, breaks: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._where = where
        self._breaks = breaks
        self._clock = clock
        self._lock = threading.Lock()
        self._failed_last = 0.0
        self._refusing = False
        self._reason = ""
        self._try_at: float | None = None
        self._calls_now = 0
        self._calls_before = 0
        self._away_s = 0.0
        self._outages = 0
        #: When it began (monotonic seconds); None while all is well. Read without the lock on each call's way.
        self.since: float | None = None

    def failed(self, reason: str, *, refused: bool, took_s: float = 0.0, calls: int = 1) -> None:
        """Note calls that failed.

        Args:
            reason: for a person.
            refused: the server answered, with a refusal.
            took_s: how long it took to find out.
            calls: how many were told.
        """
        now = self._clock()
        with self._lock:
            begins = self.since is None
            if begins:
                self.since = now
                self._outages += 1
            self._refusing = refused
            self._reason = reason
            self._failed_last = now
            self._calls_now += calls
            if took_s >= _LONG_S and self._breaks:
                self._try_at = now + _TRY_AGAIN_S
        if begins:
            log.warning("%s (said once; a line follows when it is over)", reason)
        else:
            log.debug("%s", reason)

    def succeeded(self) -> bool:
        """Note that the server did what it was asked to; True if that ends an outage. Needed only if `since` is set."""
        now = self._clock()
        with self._lock:
            if self.since is None or (self._refusing and now - self._failed_last < _QUIET_S):
                return False
            ended = self._failed_last if self._refusing else now
            away_s, calls, refusing = ended - self.since, self._calls_now, self._refusing
            self.since = self._try_at = None
            self._away_s += away_s
            self._calls_before += calls
            self._calls_now = 0
        what = "takes everything again: it refused for" if refusing else "is back: it was away for"
        log.warning("The cache server at %s %s %.1f s; %d calls failed.", self._where, what, away_s, calls)
        return True

    def check(self) -> None:
        """Raise at once while a try would take long and somebody has just made one; else let the caller try.

        Raises:
            CacheUnavailable: with the reason of the latest failure.
        """
        with self._lock:
            if self._try_at is None:
                return
            if self._clock() >= self._try_at:
                self._try_at = self._clock() + _TRY_AGAIN_S  # this caller finds out, and meanwhile nobody else
                return
            self._calls_now += 1
            reason = self._reason
        raise CacheUnavailable(reason)

    def told(self, sent_without: int = 0) -> Outages:
        """Return what was counted, here and by whoever sends without the cache."""
        with self._lock:
            now_s = 0.0 if self.since is None else self._clock() - self.since
            calls = self._calls_before + self._calls_now
            return Outages(self._outages, calls, self._away_s + now_s, self.since is not None, sent_without)
