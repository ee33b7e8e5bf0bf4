"""How often whoever listens does what, whether a thread or a task."""

from __future__ import annotations

from typing import Final

__all__ = ["FIRST_RETRY_S", "LAST_RETRY_S", "TICK_S"]

#: The listener wakes at least this often to see what is due; nobody is told to look again sooner than that matters.
TICK_S: Final = 0.25
#: Pause before the inbox is opened again, doubled up to the cap.
FIRST_RETRY_S: Final = 0.05
LAST_RETRY_S: Final = 1.0
