"""Who computes beside whom in a worker: everybody together, or an input that may end the worker by itself.

A worker that dies as a whole takes all its processes and threads along, and nobody can tell whose input it was. So
each of them is computed again with nothing beside it, in any process or thread of that worker. The locks are files,
which the system unlocks for a process that dies.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["Isolation"]

#: Asked again and again rather than waited for: a wait in the system would stop all greenlets of a thread.
_POLL_S: Final = 0.02


class Isolation:
    """Locks of one worker, shared by its processes and their threads.

    Args:
        directory: of the worker.
    """

    def __init__(self, directory: Path) -> None:
        self._company = directory / "company"  # held by all who compute: together, or one alone
        self._turn = directory / "turn"  # held by one who waits to be alone, so that no more come in before it
        self._mine = threading.local()

    @contextmanager
    def in_company(self) -> Generator[None]:
        """Compute beside others; waits for one that is alone, or wants to be."""
        company, turn = self._files()
        if not _try(company, fcntl.LOCK_SH) or not self._is_free(turn):
            fcntl.flock(company, fcntl.LOCK_UN)
            _insist(turn, fcntl.LOCK_SH)
            _insist(company, fcntl.LOCK_SH)
            fcntl.flock(turn, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(company, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Generator[None]:
        """Compute with nothing beside it; waits for all others to end."""
        company, turn = self._files()
        _insist(turn, fcntl.LOCK_EX)
        try:
            _insist(company, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(company, fcntl.LOCK_UN)
            fcntl.flock(turn, fcntl.LOCK_UN)

    def _files(self) -> tuple[int, int]:
        """Return this thread's own descriptors: a lock belongs to whoever opened the file, not to the process."""
        mine = self._mine
        if getattr(mine, "pid", None) != os.getpid():
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            mine.files = (os.open(self._company, flags, 0o600), os.open(self._turn, flags, 0o600))
            mine.pid = os.getpid()
        files: tuple[int, int] = mine.files
        return files

    @staticmethod
    def _is_free(turn: int) -> bool:
        if not _try(turn, fcntl.LOCK_SH):
            return False
        fcntl.flock(turn, fcntl.LOCK_UN)
        return True


def _try(file: int, lock: int) -> bool:
    try:
        fcntl.flock(file, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _insist(file: int, lock: int) -> None:
    while not _try(file, lock):
        time.sleep(_POLL_S)
