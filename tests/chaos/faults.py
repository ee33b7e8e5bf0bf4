"""What goes wrong, and when: drawn from a seed, noted with the time. What can happen to servers is in `servers.py`.

All times here and in the histories are those of the machine's monotonic clock: its processes share it, and nobody sets
it, not even where a worker's wall clock is shifted.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import psutil
from acceptance.harness import Deployment, Worker

__all__ = ["SHIFTS_S", "Act", "Fault", "Faults", "Hit", "Row", "Workers", "shifted_clock"]

_HERE: Final = Path(__file__).resolve().parent
#: Between two faults; with workers that take two seconds to start there is nearly always one that is coming back.
PAUSE_S: Final = (0.3, 1.5)
#: The clocks that workers are started with: more than a minute apart, each way.
SHIFTS_S: Final = (0, 90, -90)


@dataclass(frozen=True)
class Fault:
    """Something that went wrong.

    Attributes:
        name: for people.
        began: monotonic seconds.
        ended: likewise.
        loses: the cache lost data by it, or was away for so long that leases lapsed.
        reverts: a replica took a master's place: what had been written last may never have been.
        pids: of the processes that were hit.
        inputs: whose messages were in the broker when it lost its data; None if it did not.
    """

    name: str
    began: float
    ended: float
    loses: bool = False
    reverts: bool = False
    pids: tuple[int, ...] = ()
    inputs: frozenset[int] | None = None


class Hit(NamedTuple):
    """What a fault did: the same fields, and how long it goes on by itself."""

    loses: bool = False
    reverts: bool = False
    pids: tuple[int, ...] = ()
    inputs: frozenset[int] | None = None
    lasts_s: float = 0.0


#: Does it; None if there was nothing to hit.
Act: TypeAlias = Callable[[], Hit | None]


class Row(NamedTuple):
    """What happens, how it is done, and how often in proportion."""

    name: str
    act: Act
    weight: int


class Faults:
    """Has things go wrong: first each of them once, in an order drawn, then as chance and their weights will.

    Args:
        rows: what can go wrong.
        chance: draws what happens.
    """

    def __init__(self, rows: Sequence[Row], chance: random.Random) -> None:
        self._rows = rows
        self._chance = chance
        self._due = list(rows)
        self._chance.shuffle(self._due)
        self.happened: list[Fault] = []

    @property
    def pending(self) -> list[str]:
        """Those that have not happened yet."""
        return [row.name for row in self._due]

    def run(self, until: float) -> None:
        """Go on until a time (monotonic seconds)."""
        while time.monotonic() < until:
            time.sleep(self._chance.uniform(*PAUSE_S))
            drawn = self._chance.choices(self._rows, [row.weight for row in self._rows])[0]
            row = self._due.pop(0) if self._due else drawn
            began = time.monotonic()
            hit = row.act()
            if hit is not None:
                ended = max(time.monotonic(), began + hit.lasts_s)
                self.happened.append(Fault(row.name, began, ended, hit.loses, hit.reverts, hit.pids, hit.inputs))
            elif row.name not in {fault.name for fault in self.happened}:
                self._due.append(row)


class Workers:
    """Faults of worker processes.

    Args:
        deployment: whose workers are hit.
        chance: draws which.
        start: starts one more.
    """

    def __init__(self, deployment: Deployment, chance: random.Random, start: Callable[[], object]) -> None:
        self._deployment = deployment
        self._chance = chance
        self._start = start
        self._lease_s = deployment.settings.lease_s

    def rows(self) -> list[Row]:
        """Return what can go wrong with them."""
        return [
            Row("kill -9 of a worker", self.kill, 3),
            Row("kill -9 of a pool process", self.kill_child, 5),
            Row("SIGSTOP of a worker, SIGCONT", self.stop, 2),
        ]

    def kill(self) -> Hit | None:
        """SIGKILL a worker and its pool, and start another."""
        workers = self._running()
        if len(workers) < 2:
            return None
        worker = self._chance.choice(workers)
        pids = _pids(worker)
        worker.kill()
        self._start()
        return Hit(pids=pids)

    def kill_child(self) -> Hit | None:
        """SIGKILL a process of a pool."""
        children = [child for worker in self._running() for child in worker.children()]
        with suppress(psutil.Error, IndexError):
            child = self._chance.choice(children)
            child.kill()
            return Hit(pids=(child.pid,))
        return None

    def stop(self) -> Hit | None:
        """SIGSTOP a worker and its pool for half a lease or several; then it goes on as if nothing had been."""
        with suppress(psutil.Error, AssertionError, IndexError):
            worker = self._chance.choice(self._running())
            pids = _pids(worker)
            worker.stop_process()
            time.sleep(self._lease_s * self._chance.uniform(0.5, 2.5))
            worker.continue_process()
            return Hit(pids=pids)
        return None

    def _running(self) -> list[Worker]:
        return [worker for worker in self._deployment.workers if worker.is_running and worker.logged(" ready.")]


def shifted_clock(shift_s: int) -> dict[str, str] | None:
    """Return the environment that shifts a process's wall clock; None if the package `faketime` is not installed."""
    if shutil.which("faketime") is None:
        return None
    # Asked where its library lies; the rest of what it sets is shared memory of its own, which ends with it.
    command = ["faketime", "-m", "-f", "+0s", "printenv", "LD_PRELOAD"]
    library = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return {
        "LD_PRELOAD": library,
        "FAKETIME": f"{shift_s:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (_HERE / "shifted", _HERE.parents[1], _HERE.parent))),
    }


def _pids(worker: Worker) -> tuple[int, ...]:
    return (worker.pid, *(child.pid for child in worker.children()))
