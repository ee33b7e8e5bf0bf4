"""The process between an owner and its embedded server: it outlives the owner just long enough to clean up.

`foreseen.embedded` runs this file as a script, `python -I -S`, with only the standard library in reach. It is the
server's parent and makes the data directory, so there is no moment at which either exists and nobody would remove it.
It lives in a session of its own, where a terminal's Ctrl-C does not reach. It ends, and takes server and directory with
it, as soon as

- its standard input closes: the owner said stop, exited or was killed; or
- its parent changes: the owner is dead, but a child that it had forked still holds a copy of the pipe; or
- it is asked to by SIGTERM, SIGINT or SIGHUP.

One command per line comes in, as JSON: `{"binary": path, "config": text, "keep": bool}` starts the server, or ends the
one that runs and starts it again; with `keep`, on the data that it left. Events go out the same way:
`{"event": "started", "pid": …, "directory": …}`, `{"event": "exited", "pid": …, "status": …}`,
`{"event": "failed", "message": …}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

CONFIG_NAME = "valkey.conf"
LOG_NAME = "server.log"

# A look at the parent costs a microsecond; it is needed only where a forked child holds the pipe of a dead owner.
_PARENT_CHECK_S = 0.25
# A server on loopback saves what tests and demos put into it within this; a longer save counts as hung.
_SAVE_S = 30.0
# The wheel's server takes its memory from the C library, not from jemalloc as a packaged one does. glibc keeps seven
# freed pieces of each size at hand, and Lua frees hundreds with each script, which takes the longer the more keys there
# are. Fifty take a tenth off that; more take off more, and memory: a piece that is made larger goes there, and is taken
# from elsewhere, so that they fill up, to 2 MB of this many, and to 2 GB of the most. A user's own choice comes first;
# other libraries ignore it.
_TUNABLES = "GLIBC_TUNABLES"
_KEEP_FREED = "glibc.malloc.tcache_count=50"
# prctl(2): the signal a process gets when its parent dies. Linux only.
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], None] | None:
    """Return what makes a new process die with this one even if this one is killed by SIGKILL; None off Linux."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):  # a Python or a C library without it: the other ways out remain
        return None
    watcher = os.getpid()

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != watcher:  # it died before that took effect
            os._exit(1)

    return arm


class Watcher:
    """One data directory and at most one server in it.

    Args:
        directory: made for this server alone; emptied at each start that does not keep the data.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server: subprocess.Popen[bytes] | None = None
        self._arm = die_with_parent()

    def start(self, command: dict[str, Any]) -> None:
        """End the running server, if any, and start it as `command` says."""
        self.end(save=command["keep"])
        if not command["keep"]:
            for path in self._directory.iterdir():
                path.unlink() if not path.is_dir() or path.is_symlink() else shutil.rmtree(path)
        config = self._directory / CONFIG_NAME
        config.write_text(command["config"], encoding="utf-8")
        with (self._directory / LOG_NAME).open("ab") as log:
            self._server = subprocess.Popen(
                [command["binary"], str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env={_TUNABLES: _KEEP_FREED, **os.environ},
                preexec_fn=self._arm,  # noqa: PLW1509 - this process has one thread, so nothing can hold a lock here
            )
        tell(event="started", pid=self._server.pid, directory=str(self._directory))

    def end(self, *, save: bool) -> None:
        """End the server and wait until it is gone: with `save` by SIGTERM, on which it saves, else at once."""
        if self._server is None:
            return
        if save:
            self._server.terminate()
            try:
                self._server.wait(timeout=_SAVE_S)
            except subprocess.TimeoutExpired:
                tell(event="failed", message=f"the server did not save its data within {_SAVE_S:g} s")
        self._server.kill()
        self._server.wait()
        self._server = None

    def reap(self) -> None:
        """Say so if the server ended by itself, or somebody killed it."""
        if self._server is not None and (status := self._server.poll()) is not None:
            tell(event="exited", pid=self._server.pid, status=status)
            self._server = None


def tell(**event: object) -> None:
    """Send one event to the owner; a dead owner needs none."""
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), json.dumps(event).encode() + b"\n")


def watch(owner_pid: int) -> None:
    """Obey the owner until it is gone or has had enough; then clean up."""
    # A signal only writes its number into this pipe, so that none can cut a start or a clean-up short.
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)

    def wake(number: int, frame: FrameType | None) -> None:
        """Do nothing: the number is in the pipe already."""

    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, wake)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    directory = Path(tempfile.mkdtemp(prefix="foreseen-"))
    watcher = Watcher(directory)
    commands = sys.stdin.fileno()
    unread = b""
    try:
        while os.getppid() == owner_pid:
            ready, _, _ = select.select([commands, wake_read], [], [], _PARENT_CHECK_S)
            if wake_read in ready and set(os.read(wake_read, 4096)) - {signal.SIGCHLD}:
                break
            watcher.reap()
            if commands in ready:
                if not (received := os.read(commands, 65536)):
                    break
                *lines, unread = (unread + received).split(b"\n")
                for line in lines:
                    watcher.start(json.loads(line))
    except Exception as error:  # noqa: BLE001 - whatever it is, the owner is told and nothing is left behind
        tell(event="failed", message=f"{type(error).__name__}: {error}")
    finally:
        watcher.end(save=False)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    watch(int(sys.argv[1]))
