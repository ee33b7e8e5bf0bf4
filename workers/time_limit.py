"""A limit on how long a call may take: it is ended from within, and, where it does not heed that, from outside.

What runs Python is ended by an exception, raised in its own thread: in a process's main thread by an alarm signal,
which also ends a wait in the system; in another thread between two steps of Python. What does not come back to Python,
such as a loop in C, cannot be ended in a thread. A process of a pool is then ended as a whole, with its traceback on
stderr.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from billiard.process import current_process

__all__ = ["TimeUp", "limited"]

#: A call that has not heeded its limit for this long does not come back to Python.
_GRACE_S: Final = 1.0


class TimeUp(BaseException):
    """The call has taken as long as it may. No `Exception`: a model that catches all of those is to end all the same.

    Args:
        answered: it was stuck, and that was told.
    """

    def __init__(self, *, answered: bool = False) -> None:
        super().__init__()
        self.answered = answered


@contextmanager
def limited(seconds: float | None, stuck: Callable[[], None]) -> Generator[None]:
    """Raise `TimeUp` in the block once it has taken that long.

    Args:
        seconds: from now; None is no limit.
        stuck: called on another thread if the block goes on all the same; it answers for it. In a process of a pool
            the process ends instead.
    """
    if seconds is None:
        yield
    elif threading.current_thread() is threading.main_thread():
        with _alarm(seconds), _end_of_process(seconds + _GRACE_S):
            yield
    else:
        with _interruption(seconds, stuck):
            yield


@contextmanager
def _alarm(seconds: float) -> Generator[None]:
    is_on = True

    def ring(_number: int, _frame: FrameType | None) -> None:
        if is_on:
            raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        is_on = False  # in one step: from here on nothing is raised
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _end_of_process(seconds: float) -> Generator[None]:
    if current_process().name == "MainProcess":  # solo: the worker itself
        yield
        return
    try:
        stderr = sys.__stderr__.fileno() if sys.__stderr__ is not None else os.open(os.devnull, os.O_WRONLY)
    except (OSError, ValueError):
        stderr = os.open(os.devnull, os.O_WRONLY)
    faulthandler.dump_traceback_later(seconds, exit=True, file=stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def _interruption(seconds: float, stuck: Callable[[], None]) -> Generator[None]:
    watch = _Watch(seconds, stuck)
    try:
        try:
            yield
        finally:
            try:
                watch.close()
            except TimeUp:  # noticed just now
                watch.close()
                raise
    except (Exception, TimeUp):
        if not watch.was_raised:
            raise
    if watch.was_raised:  # however it ended after that
        raise TimeUp(answered=watch.was_answered)


class _Watch:
    """Raises `TimeUp` in the thread that makes it; if that goes on all the same, has it answered for."""

    def __init__(self, seconds: float, stuck: Callable[[], None]) -> None:
        self.was_raised = False
        self.was_answered = False
        self._stuck = stuck
        self._thread = threading.get_ident()
        self._is_on = True
        # Held all the while that somebody answers: a call that comes back waits, to learn whether it was answered for.
        self._changing = threading.Lock()
        self._at = threading.Timer(seconds, self._interrupt)
        self._after = threading.Timer(_GRACE_S, self._give_up)
        self._at.daemon = self._after.daemon = True
        self._at.start()

    def close(self) -> None:
        """Raise nothing from here on, nor what was raised and not yet noticed."""
        with self._changing:
            self._is_on = False
            if self.was_raised:
                _raise_in(self._thread, None)
        self._at.cancel()
        self._after.cancel()

    def _interrupt(self) -> None:
        with self._changing:
            if not self._is_on:
                return
            self.was_raised = True
            _raise_in(self._thread, TimeUp)
            self._after.start()

    def _give_up(self) -> None:
        with self._changing:
            if self._is_on:
                self._stuck()
                self.was_answered = True


def _raise_in(thread: int, what: Any) -> None:
    """Have a thread raise an exception at its next step of Python; or, with None, not raise it after all."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(what) if what else None)
