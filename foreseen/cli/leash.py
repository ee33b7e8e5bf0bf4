"""Run Celery for as long as its owner lives: `python -m foreseen.cli.leash OWNER_PID worker …`.

An owner that is killed by SIGKILL can end nobody. So the worker looks for itself, and takes its whole process group
along: the pool's processes, too. On Linux a signal at the parent's death would do; this does on macOS as well.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

__all__ = ["hold"]

# A look at the parent costs a microsecond, and a worker without a server does no harm for this long.
_PARENT_CHECK_S = 0.25


def hold(owner_pid: int) -> None:
    """Kill this process group as soon as the owner is not its parent any more."""

    def watch() -> None:
        while os.getppid() == owner_pid:
            time.sleep(_PARENT_CHECK_S)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="leash", daemon=True).start()


if __name__ == "__main__":
    hold(int(sys.argv[1]))
    sys.argv[1:2] = []
    runpy.run_module("celery", run_name="__main__", alter_sys=True)
