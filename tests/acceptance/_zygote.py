"""What workers are forked from: a process that has imported what each of them imports, and nothing that reads settings.

`acceptance.zygote` runs this file as a script, with a socket for its argument. A request is a byte, with which file
descriptors may come along, and a line of JSON; its answer is a line of JSON:

    {"command": [python, "-m", module, …],     starts it; its three streams come along as file descriptors;
     "directory": …, "environment": …}         answered with its process id; all of these variables, and no other
    {"pid": …}                                 answered with its exit status, null while it runs

It has one thread, no connection and no Celery app, so that a process forked from it is like one that has just begun. It
ends as the socket closes, which the death of who holds the other end does too.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import socket
import sys
import threading
from typing import Any, Final

#: Together they import what a worker has imported when it is ready, but for its app, its settings and its models.
PRELOADED: Final = (
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.solo",
    "celery.concurrency.thread",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.utils.static",
    "foreseen.checks",
    "foreseen.inflation",
    "foreseen.logs",
    "foreseen.transport",
    "workers.consumer",
    "workers.engine",
    "workers.features",
    "workers.measuring",
    "workers.presence",
    "workers.quiet",
    "workers.reloading",
    "workers.request",
)
#: Importing these reads settings or makes an app.
_NOT_BEFORE_THE_FORK: Final = ("celeryconfig", "foreseen.celery_settings", "workers.celery", "served", "numpy")
_N_STREAMS: Final = 3


def main() -> None:
    """Answer requests; in a forked child, become what was asked for."""
    del sys.path[0]  # this file's folder, of which no other process knows
    for name in PRELOADED:
        importlib.import_module(name)
    if early := [name for name in _NOT_BEFORE_THE_FORK if name in sys.modules]:
        sys.exit(f"imported before the fork: {early}")
    if threading.active_count() > 1:
        sys.exit(f"threads before the fork: {threading.enumerate()}")
    path = _path_of_its_own()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        asked = _serve(control)
    if asked is not None:
        _become(asked, path)


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Answer until nobody asks any more; return a request in the child that was forked for it."""
    lines = control.makefile("rb")
    while True:
        byte, streams, *_ = socket.recv_fds(control, 1, _N_STREAMS)
        if not byte:
            return None
        asked: dict[str, Any] = json.loads(lines.readline())
        if "pid" in asked:
            pid, status = os.waitpid(asked["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                lines.close()
                control.close()
                os.setsid()
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                os.closerange(_N_STREAMS, os.sysconf("SC_OPEN_MAX"))
                return asked
            for stream in streams:
                os.close(stream)
        control.sendall(json.dumps(answer).encode() + b"\n")


def _path_of_its_own() -> list[str]:
    """Return where any process of this interpreter looks for modules, whatever `PYTHONPATH` says."""
    told = [os.path.abspath(each) for each in os.environ["PYTHONPATH"].split(os.pathsep)]  # noqa: PTH100 - as Python does
    return [each for each in sys.path if each not in told]


def _become(asked: dict[str, Any], path: list[str]) -> None:
    """Run a module as `python -m` does, in the directory and environment asked for."""
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["directory"])
    told = [os.path.abspath(each) for each in os.environ["PYTHONPATH"].split(os.pathsep)]  # noqa: PTH100 - as Python does
    sys.path[:] = [os.getcwd(), *dict.fromkeys([*told, *path])]  # noqa: PTH109 - as text, as sys.path holds it
    _python, _m, module, *sys.argv[1:] = asked["command"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
