"""Run Celery for as long as its owner lives: `python -m foreseen.cli.leash OWNER_PID DIRECTORY worker …`.

An owner that is killed by SIGKILL can end nobody. So the worker looks for itself, and takes its whole process group
along: the pool's processes, too, and a directory if it was given one ("" is none). On Linux a signal at the parent's
death would do for the processes; this does on macOS as well.
"""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

__all__ = ["end", "hold", "start_celery"]

# A look at the parent costs a microsecond, and a worker without a server does no harm for this long.
_PARENT_CHECK_S = 0.25
# A removal fails if a file is made meanwhile; that does not happen often in a row.
_REMOVALS = 10


def start_celery(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    output: int | IO[bytes],
    temporary: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `celery -A workers …` in a process group of its own, which ends with this process.

    Args:
        arguments: what follows `celery -A workers`.
        environment: all of it.
        directory: where it runs.
        output: takes what it writes, to both of its outputs.
        temporary: for its temporary files, since what is killed leaves some; this process removes it, or the leash if
            this process is killed.
    """
    if temporary is not None:
        environment = {**environment, "TMPDIR": str(temporary)}
    # -P: as with the command `celery`, what lies in the directory hides none of the modules that Celery is made of.
    command = [sys.executable, "-P", "-m", "foreseen.cli.leash", str(os.getpid()), str(temporary or "")]
    return subprocess.Popen(
        [*command, "-A", "workers", *arguments],
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a group of its own, which goes as a whole; and no terminal reaches it
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process group of one that was started in a session of its own, also if its first process is gone."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def hold(owner_pid: int, directory: Path | None = None) -> None:
    """Kill this process group, and remove the directory, as soon as the owner is not its parent any more."""

    def watch() -> None:
        while os.getppid() == owner_pid:
            time.sleep(_PARENT_CHECK_S)
        if directory is not None:
            _remove(directory)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="leash", daemon=True).start()


def _remove(directory: Path) -> None:
    """Remove a directory in which processes of this group may still make files: they die right after."""
    for _ in range(_REMOVALS):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return


if __name__ == "__main__":
    hold(int(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None)
    sys.argv[1:3] = []
    runpy.run_module("celery", run_name="__main__", alter_sys=True)
