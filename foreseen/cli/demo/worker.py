"""The demo's worker: Celery's own command, as anybody would start it, on a leash."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from foreseen.cache import Cache
from foreseen.cli import leash
from foreseen.errors import ForeseenError
from foreseen.keys import KeySpace
from foreseen.settings import Settings

__all__ = ["Worker", "WorkerFailed"]

#: From the start to the first heartbeat it takes 2 s; a machine may be slow and busy.
_START_S = 60.0
_POLL_S = 0.05
#: Enough of a log to show what happened.
_LOG_TAIL_LINES = 20


class WorkerFailed(ForeseenError):
    """The worker ended, or did not start. The message has the end of its log."""


class Worker:
    """A worker with the prefork pool; starts as `with` begins and is gone when it ends.

    Args:
        settings: where its servers are, and what it serves.
        processes: in its pool.
        directory: where it runs and writes its log; nothing there shadows a module.
    """

    def __init__(self, settings: Settings, processes: int, directory: Path) -> None:
        self._settings = settings
        self._processes = processes
        self._directory = directory
        self._log = directory / "worker.log"
        self._running: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        settings = self._settings
        variables = {
            "FORESEEN_BROKER_URL": settings.broker_url,
            "FORESEEN_CACHE_URL": settings.cache_url,
            "FORESEEN_MODELS": ",".join(settings.models),
            "ORT_DISABLE_TELEMETRY": "1",  # else ONNX Runtime reports to its makers as soon as it is imported
            "TMPDIR": str(self._directory),  # what a process that is killed leaves goes with the directory
        }
        # There is nobody to greet: saying so takes Celery a second.
        arguments = ["worker", "--pool=prefork", f"--concurrency={self._processes}", "--loglevel=INFO"]
        arguments += ["--without-mingle", "--without-gossip"]
        with self._log.open("wb") as log:
            self._running = leash.start_celery(arguments, os.environ | variables, self._directory, log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._running is not None:
            leash.end(self._running)  # its server goes next: there is nothing to finish

    def ready(self, model: str) -> str:
        """Wait until it serves a model; return the model's version.

        Raises:
            WorkerFailed: it ended, or took too long.
        """
        cache, name = Cache(self._settings), KeySpace(self._settings.namespace).current(model)
        deadline = time.monotonic() + _START_S
        try:
            while time.monotonic() < deadline:
                self.check()
                (version,) = cache.commands([("GET", name)])
                if version is not None:
                    return str(version.decode())
                time.sleep(_POLL_S)
        finally:
            cache.close()
        raise WorkerFailed(f"the worker did not serve {model} within {_START_S:g} s; its log ends:\n{self._tail()}")

    def check(self) -> None:
        """Raise `WorkerFailed` if it is not running any more."""
        if self._running is not None and (status := self._running.poll()) is not None:
            raise WorkerFailed(f"the worker ended with status {status}; its log ends:\n{self._tail()}")

    def _tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:])
