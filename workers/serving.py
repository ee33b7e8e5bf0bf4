"""Which models this worker takes work for: those that its processes have loaded, and none of them has failed to.

What computes loads, and tells here, through a named pipe: so the process that starts learns of it at once, whether its
children were forked or started anew. A queue is consumed from then on, and a card published; a model that could not be
loaded is neither, and the others are served all the same.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

__all__ = ["Life", "Serving", "State", "tell"]

log = logging.getLogger("foreseen.worker")

#: What fits into a pipe in one piece, so that lines of several processes never mix; POSIX promises 512 bytes.
_LARGEST_LINE: Final = 512
_READ_BYTES: Final = 65536


class State(StrEnum):
    """Where a model is in its life, in this worker."""

    LOADING = "loading"
    SERVED = "served"
    FAILED = "failed"


@dataclass(slots=True)
class Life:
    """What is known of a model.

    Attributes:
        told: by process that lives, why it could not load the model; empty if it has.
        was_loaded: by some process, which may be gone: who takes its place will load it too.
        load_s: how long loading and warming up took last.
    """

    told: dict[int, str] = field(default_factory=dict[int, str])
    was_loaded: bool = False
    load_s: float = 0.0

    @property
    def state(self) -> State:
        """Where it is; whether it takes work."""
        if any(self.told.values()):
            return State.FAILED
        return State.SERVED if self.was_loaded else State.LOADING

    @property
    def error(self) -> str:
        """Why it is not served."""
        return next(filter(None, self.told.values()), "")

    @property
    def processes(self) -> int:
        """How many have loaded it."""
        return sum(not error for error in self.told.values())


class Serving:
    """The lives of a worker's models; safe for threads.

    Args:
        pipe: through which processes tell; made here.
        model_ids: that this worker is to serve.
    """

    def __init__(self, pipe: Path, model_ids: Iterable[str]) -> None:
        self.lives: dict[str, Life] = {model_id: Life() for model_id in model_ids}
        os.mkfifo(pipe, 0o600)
        self._pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # for both: so it never ends
        self._unread = b""
        self._lock = threading.Lock()
        self._on_change: Callable[[str], object] = len

    def fileno(self) -> int:
        """Return what becomes readable when a process has told something."""
        return self._pipe

    def is_served(self, model_id: str) -> bool:
        """Tell whether this worker takes work for a model."""
        life = self.lives.get(model_id)
        return life is not None and life.state is State.SERVED

    def follow(self, on_change: Callable[[str], object]) -> None:
        """Call this with a model's id whenever its state changes, and now for each that is known."""
        self.look()
        self._on_change = on_change
        for model_id, life in list(self.lives.items()):
            if life.state is not State.LOADING:
                on_change(model_id)

    def look(self) -> None:
        """Take in what processes have told; one that is gone counts no longer."""
        with self._lock:
            before = {model_id: life.state for model_id, life in self.lives.items()}
            with suppress(BlockingIOError):
                while read := os.read(self._pipe, _READ_BYTES):
                    self._unread += read
            *lines, self._unread = self._unread.split(b"\n")
            for line in lines:
                with suppress(ValueError, KeyError):
                    self._take(json.loads(line))
            for life in self.lives.values():
                for pid in [pid for pid in life.told if not _lives(pid)]:
                    del life.told[pid]
            changed = [model_id for model_id, state in before.items() if self.lives[model_id].state is not state]
        for model_id in changed:
            self._on_change(model_id)

    def close(self) -> None:
        """Close the pipe; for when the worker ends."""
        os.close(self._pipe)

    def _take(self, told: dict[str, Any]) -> None:
        """Note what a process tells of a model."""
        life = self.lives[told["model"]]
        life.told[told["pid"]] = told["error"]
        life.load_s = told["load_s"]
        life.was_loaded = life.was_loaded or not told["error"]


def tell(pipe: Path, model_id: str, began: float, error: str = "") -> None:
    """Tell the worker's own process that a model is loaded in this one, or why it could not be.

    Args:
        pipe: the worker's.
        model_id: `name@version`.
        began: when loading began (monotonic seconds).
        error: for a person; empty if it is loaded.
    """
    told = {"pid": os.getpid(), "model": model_id, "load_s": round(time.monotonic() - began, 3), "error": error}
    line = json.dumps(told).encode() + b"\n"
    while len(line) > _LARGEST_LINE and told["error"]:
        told["error"] = error = error[: len(error) // 2]
        line = json.dumps({**told, "error": f"{error}…"}).encode() + b"\n"
    try:
        end = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(end, line)
        finally:
            os.close(end)
    except OSError as failed:  # nobody reads: the worker has ended, or no longer comes to it
        log.warning("%s: the worker could not be told that it is loaded: %s", model_id, failed)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
