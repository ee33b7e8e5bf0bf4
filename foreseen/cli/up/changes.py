"""Tells when Python files change."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from watchfiles import Change, watch

__all__ = ["Changes"]

#: Changes that come within this belong together: an editor that saves touches a file more than once.
_TOGETHER_MS = 200
#: The watcher's own beat, and how soon it sees that it is to stop.
_STEP_MS = 50


class Changes:
    """Watches directories until closed.

    Args:
        directories: with the files; a home directory may be among them, which is why nothing below is looked at.
        trees: directories that are looked at with those that are below them now.
    """

    def __init__(self, directories: Iterable[Path], trees: Iterable[Path] = ()) -> None:
        self.directories = frozenset(directories)
        self._trees = frozenset(trees)
        self._changed: set[Path] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="changes", daemon=True)
        self._thread.start()

    def take(self) -> list[Path]:
        """Return the files that changed since the last call."""
        with self._lock:
            changed, self._changed = self._changed, set()
        return sorted(changed)

    def close(self) -> None:
        """Watch no longer."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        below = {path for tree in self._trees for path in (tree, *tree.rglob("*")) if path.name != "__pycache__"}
        there = [each for each in self.directories | below if each.is_dir()]
        if not there:
            return
        batches = watch(
            *there,
            watch_filter=_is_python,
            debounce=_TOGETHER_MS,
            step=_STEP_MS,
            stop_event=self._stopping,
            recursive=False,
        )
        for batch in batches:
            with self._lock:
                self._changed |= {Path(path) for _, path in batch}


def _is_python(change: Change, path: str) -> bool:
    del change
    return path.endswith(".py")
