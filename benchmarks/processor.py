"""What a miss costs all processors together: client, server, worker and its child.

Unlike waiting time, this hardly moves with what else runs on the machine.
"""

from __future__ import annotations

from collections.abc import Callable

import psutil

from benchmarks.harness import Comparison, Side, Tell, interleave
from benchmarks.stage import BARE, DEADLINE_S, ECHO, MODEL, Stage, Worker, fresh_text

__all__ = ["processor_time"]


def processor_time(stage: Stage, tell: Tell) -> list[Comparison]:
    """Processor time of `predict` of what nobody has asked for, beside that of `delay().get()`.

    Fair: as for `single_miss`; each side is counted in this process, the server, and its own worker with its child.
    """
    stage.have(ECHO, BARE)
    count = stage.size.of(20, 100, 100)  # the system counts in steps of 10 ms, of which a hundred fill twenty and more

    def miss() -> None:
        text = fresh_text()
        assert stage.producer.predict(MODEL, text) == text

    def bare() -> None:
        text = fresh_text()
        assert stage.bare.echo.delay(text).get(timeout=DEADLINE_S) == text

    sides = {
        "miss, processor time": _spent(_processes(stage, ECHO), miss, count),
        "bare Celery delay().get(), processor time": _spent(_processes(stage, BARE), bare, count),
    }
    rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 8, 20), tell=tell)
    return [rounds.time(*sides)]


def _processes(stage: Stage, worker: Worker) -> list[psutil.Process]:
    parent = psutil.Process(stage.pid(worker))
    return [psutil.Process(), psutil.Process(stage.server.pid), parent, *parent.children(recursive=True)]


def _spent(processes: list[psutil.Process], operation: Callable[[], object], count: int) -> Side:
    """Return a side that counts the processor time of one call in all of the processes."""

    def total() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    def side() -> tuple[float]:
        before = total()
        for _ in range(count):
            operation()
        return ((total() - before) / count,)

    return side
