"""What a miss costs all processors together: client, server, worker and its child.

Unlike waiting time, this hardly moves with what else runs on the machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import psutil

from benchmarks.harness import Comparison, Tell
from benchmarks.stage import MODEL, Stage, fresh_text

__all__ = ["processor_time"]

_ROUNDS = 8
#: The system counts in steps of 10 ms, of which these fill twenty and more.
_CALLS = 100


def processor_time(stage: Stage, tell: Tell) -> Comparison:
    """Processor time of `predict` of what nobody has asked for, beside that of `delay().get()`."""

    def miss() -> None:
        stage.producer.predict(MODEL, fresh_text())

    def bare() -> None:
        stage.bare_echo.delay(fresh_text()).get()

    ours, theirs = (_processes(stage, pid) for pid in stage.worker_pids())
    figures: list[float] = []
    baselines: list[float] = []
    for done in range(_ROUNDS + 1):
        figure, baseline = _spent(ours, miss), _spent(theirs, bare)
        if done:
            figures.append(figure)
            baselines.append(baseline)
        tell(done, _ROUNDS)
    ratios = [figure / baseline for figure, baseline in zip(figures, baselines, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    return Comparison(
        "single miss, processor time", "bare Celery delay().get()",
        statistics.median(figures), statistics.median(baselines), ratio, low, high, _ROUNDS, None,
    )  # fmt: skip


def _processes(stage: Stage, worker_pid: int) -> list[psutil.Process]:
    worker = psutil.Process(worker_pid)
    return [psutil.Process(), psutil.Process(stage.server.pid), worker, *worker.children(recursive=True)]


def _spent(processes: list[psutil.Process], operation: Callable[[], object]) -> float:
    """Return the seconds of processor time that one call takes in all of the processes."""
    before = sum(sum(process.cpu_times()[:2]) for process in processes)
    for _ in range(_CALLS):
        operation()
    return (sum(sum(process.cpu_times()[:2]) for process in processes) - before) / _CALLS
