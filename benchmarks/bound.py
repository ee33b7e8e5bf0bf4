"""A bound on how long something may take, whatever it waits for."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

__all__ = ["TookTooLong", "bounded"]


class TookTooLong(BaseException):
    """Raised wherever the main thread is at that moment; no `except Exception` on the way may take it for its own."""


@contextmanager
def bounded(seconds: float) -> Generator[None]:
    """Raise `TookTooLong` in the main thread, which this must run on, if what is inside takes longer."""

    def ring(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise TookTooLong(f"it took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
