"""Which lines of a worker's or Flower's log somebody at a terminal wants to see."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["Line", "LogLines"]

# [2026-01-31 12:00:00,123: WARNING/ForkPoolWorker-1] message
_CELERY: Final = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+: (?P<level>[A-Z]+)/[^\]]*\] ?(?P<message>.*)")
# [W 260131 12:00:00 inspector:42] message
_TORNADO: Final = re.compile(r"\[(?P<level>[DIWEC]) \d{6} \d\d:\d\d:\d\d [^\]]*\] ?(?P<message>.*)")
_LEVELS: Final = {"D": "DEBUG", "I": "INFO", "W": "WARNING", "E": "ERROR", "C": "CRITICAL"}
_LOADED: Final = re.compile(r"\S+@\S+ is loaded$")


@dataclass(frozen=True, slots=True)
class Line:
    """A line to show.

    Attributes:
        level: as logging names it; empty where the line does not say.
        text: without time and level, if these were read.
    """

    level: str
    text: str


class LogLines:
    """Chooses lines of one log, in order; a traceback goes with the line it follows.

    Args:
        shown: the levels to show; None shows everything.
    """

    def __init__(self, shown: frozenset[str] | None) -> None:
        self._shown = shown
        self._level = ""
        self._loaded: set[str] = set()

    def choose(self, line: str) -> Line | None:
        """Return what is to be shown of the next line, if anything."""
        matched = _CELERY.match(line) or _TORNADO.match(line)
        if matched is None:
            return Line(self._level, line) if self._shown is None or self._level in self._shown else None
        level, text = matched["level"], matched["message"]
        self._level = _LEVELS.get(level, level)
        if self._shown is None or self._level in self._shown:
            return Line(self._level, text)
        if _LOADED.search(text) and text not in self._loaded:  # each process of the pool says it
            self._loaded.add(text)
            return Line(self._level, text)
        return None
