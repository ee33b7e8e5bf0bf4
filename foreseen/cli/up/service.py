"""A process of `foreseen up`, and what keeps it running."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from foreseen.cli import leash
from foreseen.cli.up.restarts import Restarts
from foreseen.errors import ForeseenError

__all__ = ["Kept", "Service", "ServiceFailed"]

#: Enough of a log to show what happened.
_TAIL_LINES: Final = 20
_POLL_S: Final = 0.02
#: A reader has what was written before the end within this, unless the machine is very busy.
_LAST_LINES_S: Final = 2.0


class ServiceFailed(ForeseenError):
    """A process does not come up. The message has the end of its log."""


class Service:
    """A process in a group of its own whose lines are read as they come.

    Args:
        process: just started, with a pipe as its output.
        hear: is told each line, on a thread.
    """

    def __init__(self, process: subprocess.Popen[bytes], hear: Callable[[str], None]) -> None:
        self._process = process
        self._hear = hear
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._asked = False
        self._reader = threading.Thread(target=self._read, name=f"log-{process.pid}", daemon=True)
        self._reader.start()

    def ended(self) -> str | None:
        """Return how it ended, None while it runs; kills what is left of its group then."""
        status = self._process.poll()
        if status is None:
            return None
        self._finish()
        return f"status {status}" if status >= 0 else f"status {status} ({signal.Signals(-status).name})"

    def tail(self) -> str:
        """Return the end of its log, indented."""
        return "\n".join(f"  {line}" for line in self._tail) or "  (it wrote nothing)"

    def stop(self, timeout_s: float, impatient: threading.Event) -> bool:
        """Ask it to end and wait; kill it after a while, or once that is impatient. Return whether it ended by itself.

        It is asked once: for Celery a second SIGTERM means to drop what runs.
        """
        deadline = time.monotonic() + timeout_s
        if not self._asked and self._process.poll() is None:
            self._asked = True
            self._process.terminate()
        while (by_itself := self._process.poll() is not None) is False:
            if impatient.is_set() or time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        self._finish()
        return by_itself

    def _finish(self) -> None:
        leash.end(self._process)
        self._reader.join(_LAST_LINES_S)

    def _read(self) -> None:
        if self._process.stdout is None:
            return
        with self._process.stdout as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                self._tail.append(text)
                self._hear(text)


class Kept:
    """Starts a service, and starts it again when it ends, after a pause that grows.

    Args:
        name: for messages.
        start: starts it.
        is_ready: whether it does its work by now.
        tell: hears what went wrong.
    """

    def __init__(
        self, name: str, start: Callable[[], Service], is_ready: Callable[[], bool], tell: Callable[[str], None]
    ) -> None:
        self._name = name
        self._start = start
        self._is_ready = is_ready
        self._tell = tell
        self._restarts = Restarts()
        self._service: Service | None = None
        self._ready_since: float | None = None
        self._due_at: float | None = 0.0

    @property
    def runs(self) -> bool:
        """Whether it was started, and has not been seen to end."""
        return self._service is not None

    @property
    def is_ready(self) -> bool:
        """Whether it runs, and does its work."""
        return self._ready_since is not None

    def tick(self) -> None:
        """Look at it, and start it if it is time for that.

        Raises:
            ServiceFailed: it ended at its start too often; it is not started again unless `renew` says so.
        """
        now = time.monotonic()
        if self._service is None:
            if self._due_at is not None and now >= self._due_at:
                self._due_at = None  # if starting it fails, that is not tried again by itself
                self._service = self._start()
        elif (how := self._service.ended()) is not None:
            self._after_end(self._service, how, now)
        elif self._ready_since is None and self._is_ready():
            self._ready_since = now

    def renew(self, timeout_s: float) -> None:
        """End it in good order, and start it at the next tick."""
        self.stop(timeout_s, threading.Event())
        self._restarts.forget()
        self._due_at = 0.0

    def stop(self, timeout_s: float, impatient: threading.Event) -> bool:
        """End it in good order; return whether it ended by itself, as it does if it does not run."""
        self._due_at = self._ready_since = None
        by_itself = self._service is None or self._service.stop(timeout_s, impatient)
        self._service = None
        return by_itself

    def _after_end(self, service: Service, how: str, now: float) -> None:
        pause_s = self._restarts.pause_s(None if self._ready_since is None else now - self._ready_since)
        self._service = self._ready_since = None
        message = f"{self._name} ended with {how}; its log ends:\n{service.tail()}"
        if pause_s is None:
            raise ServiceFailed(f"{message}\n{self._name} does not come up.")
        self._tell(f"{message}\n{self._name} is started again in {pause_s:g} s")
        self._due_at = now + pause_s
