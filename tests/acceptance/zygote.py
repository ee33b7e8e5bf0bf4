"""Workers that start in a third of the time, forked from a process that has imported already what each of them imports.

    with Zygote(environment) as zygote:
        if zygote.suits(other_environment):
            process = zygote.start([sys.executable, "-m", "celery", …], other_environment, directory, log)

A process that starts this way has the environment, working directory, `sys.path`, session, streams and exit status that
`python -m celery …` would have; only its parent is another, and its modules are older than itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

__all__ = ["ForkedProcess", "Zygote"]

_SCRIPT: Final = Path(__file__).with_name("_zygote.py")
#: What may differ from the zygote's own environment: nothing reads the first before the fork, and `PYTHONPATH` may have
#: more in front.
_READ_LATER: Final = ("FORESEEN_", "PYTHONPATH")
#: Between looks at a process that is waited for.
_POLL_S: Final = 0.01


class ForkedProcess:
    """What tests use of `subprocess.Popen`, for a process that is the zygote's child.

    Attributes:
        pid: process id; of its session and process group too.
        stdin: a pipe to it.
        returncode: its exit status, as `Popen` has it; None until somebody has looked after its end.
    """

    def __init__(self, zygote: Zygote, pid: int, stdin: int) -> None:
        self._zygote = zygote
        self.pid = pid
        self.stdin = os.fdopen(stdin, "w")
        self.stdout: None = None
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return its exit status, None while it runs."""
        if self.returncode is None:
            self.returncode = self._zygote.ask({"pid": self.pid})
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"forked process {self.pid}", timeout)
            time.sleep(_POLL_S)
        return status

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


class Zygote:
    """A process that others are forked from; it ends with `close`, and with this process, however that ends.

    Args:
        environment: its own; what it forks differs from that in nothing but what `suits` allows.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._lock = threading.Lock()  # who asks is answered before the next one asks

    def open(self) -> Zygote:
        """Start it; it imports while this process goes on."""
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, _SCRIPT, str(theirs.fileno())],
                env=self._environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._answers = self._control.makefile("rb")
        return self

    def close(self) -> None:
        """End it; what it forked goes on."""
        self._answers.close()
        self._control.close()
        self._process.wait()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Whether what is forked finds itself as if it were started anew in that environment."""
        same_code = environment["PYTHONPATH"].endswith(self._environment["PYTHONPATH"])
        return same_code and _read_early(environment) == _read_early(self._environment)

    def start(self, command: Sequence[str], environment: Mapping[str, str], directory: Path, log: int) -> ForkedProcess:
        """Do as `Popen` would, in a session of its own.

        Args:
            command: `python -m module …`.
            environment: all of it.
            directory: where it runs.
            log: a file descriptor: where it writes, output and errors.
        """
        asked = {"command": list(command), "environment": dict(environment), "directory": str(directory)}
        theirs, ours = os.pipe()
        try:
            pid = self.ask(asked, theirs, log, log)
        finally:
            os.close(theirs)
        return ForkedProcess(self, pid, ours)

    def ask(self, request: Mapping[str, Any], *streams: int) -> Any:
        """Send a request, and file descriptors; return the answer."""
        answer = b""
        with self._lock, contextlib.suppress(ConnectionError):
            socket.send_fds(self._control, [b"\0"], streams)
            self._control.sendall(json.dumps(request).encode() + b"\n")
            answer = self._answers.readline()
        if not answer:
            raise AssertionError(f"the zygote ended with status {self._process.wait()}")
        return json.loads(answer)


def _read_early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(_READ_LATER)}
