"""What an application waits for when it imports the producer."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from typing import Final

from benchmarks.harness import Comparison, Side, Tell, interleave
from benchmarks.stage import Stage

__all__ = ["import_time"]

_SCRIPT: Final = "import gc, time; {}; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
_IMPORTS: Final = {
    "producer": "from producer import AsyncProducer, Producer",
    "redis, kombu, pydantic_settings": "import redis, kombu, pydantic_settings",
}
_DEADLINE_S: Final = 30.0


def import_time(stage: Stage, tell: Tell) -> list[Comparison]:
    """Importing the producer's two classes, beside importing the libraries that it stands on.

    Fair: fresh interpreters of the same environment in turn, each of which times its import alone; all is compiled and
    read before, by the first round, as an installation does. The classes are imported by name, so that nothing is put
    off until they are used. Whether Python's garbage collector makes a full pass meanwhile, of 16 ms, hangs on a few
    objects more or less: so both are measured without it, too.
    """
    stage.have()
    with tempfile.TemporaryDirectory(prefix="foreseen-bytecode-") as bytecode:
        sides: dict[str, Side] = {
            f"import of {what}{how}": partial(_imported, statement, before, bytecode)
            for how, before in (("", "pass"), (", collector off", "gc.disable()"))
            for what, statement in _IMPORTS.items()
        }
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 15, 40), tell=tell)
    names = list(sides)
    return [rounds.time(*names[:2], target=1.15), rounds.time(*names[2:])]


def _imported(statement: str, before: str, bytecode: str) -> list[float]:
    """Return the seconds that a statement takes in an interpreter of its own, which keeps bytecode in that folder."""
    command = [sys.executable, "-c", _SCRIPT.format(before, statement)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_DEADLINE_S, env=environment)
    return [float(ended.stdout)]
