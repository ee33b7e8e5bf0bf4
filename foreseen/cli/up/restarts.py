"""When a process that ended is started again."""

from __future__ import annotations

from typing import Final

__all__ = ["Restarts"]

#: Before the first restart, doubled for each further one.
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
#: What ran this long was fine: its next end starts over with the shortest pause.
_FINE_S: Final = 60.0
#: What ends this often before it was ready, one time after the other, will not come up by itself.
_MAX_FAILED_STARTS: Final = 2


class Restarts:
    """The pauses of one process; reads no clock."""

    def __init__(self) -> None:
        self._pause_s = _FIRST_PAUSE_S
        self._failed_starts = 0

    def pause_s(self, ready_for_s: float | None) -> float | None:
        """Take in that it ended; return how long to wait before it is started again, None for not at all.

        Args:
            ready_for_s: how long it had been ready; None if it never was.
        """
        if ready_for_s is None:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILED_STARTS:
                return None
        else:
            self._failed_starts = 0
            if ready_for_s >= _FINE_S:
                self._pause_s = _FIRST_PAUSE_S
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return pause_s

    def forget(self) -> None:
        """Start over: what is started now is other code."""
        self._pause_s, self._failed_starts = _FIRST_PAUSE_S, 0
