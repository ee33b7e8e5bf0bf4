"""What an application waits for when it imports the producer."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import Final

from benchmarks.harness import Comparison, Side, Tell, interleave
from benchmarks.stage import Stage

__all__ = ["import_time"]

_SCRIPT: Final = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
_DEADLINE_S: Final = 30.0


def import_time(stage: Stage, tell: Tell) -> list[Comparison]:
    """Importing the producer's two classes, beside importing the libraries that it stands on.

    Fair: fresh interpreters of the same environment in turn, each of which times its import alone; all is compiled and
    read before, by the first round, as an installation does. The classes are imported by name, so that nothing is put
    off until they are used.
    """
    stage.have()
    with tempfile.TemporaryDirectory(prefix="foreseen-bytecode-") as bytecode:
        sides: dict[str, Side] = {
            "import of producer": lambda: [_imported("from producer import AsyncProducer, Producer", bytecode)],
            "import of redis, kombu, pydantic_settings": lambda: [
                _imported("import redis, kombu, pydantic_settings", bytecode)
            ],
        }
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 15, 40), tell=tell)
    return [rounds.time(*sides, target=1.15)]


def _imported(statement: str, bytecode: str) -> float:
    """Return the seconds that a statement takes in an interpreter of its own, which keeps bytecode in that folder."""
    command = [sys.executable, "-c", _SCRIPT.format(statement)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_DEADLINE_S, env=environment)
    return float(ended.stdout)
