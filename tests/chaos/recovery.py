"""How long waiters wait once the worker that computes for them is gone: `make chaos ARGS="--recovery"`.

Again and again a whole worker, parent and pool, is killed in the midst of a computation that somebody waits for.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from acceptance.harness import Deployment
from rich.console import Console

__all__ = ["COMPUTE_S", "LEASE_S", "Recovery", "recover", "report"]

LEASE_S: Final = 2.0
#: Of each computation; whoever takes over has all of it before him.
COMPUTE_S: Final = 1.0
WORKERS: Final = 3
#: At once: those who survive have a free process for each. One process a worker, since what is taken over together
#: travels in one message, as a batch, and this model takes its inputs one after the other.
WAITERS: Final = WORKERS - 1
_ANSWER_S: Final = 60.0


class Recovery:
    """Kills workers of a deployment under waiters.

    Args:
        deployment: serves `slow`, with a lease of `LEASE_S`.
        seed: draws when.
    """

    def __init__(self, deployment: Deployment, seed: int) -> None:
        self._deployment = deployment
        self._chance = random.Random(seed)
        self._producer = deployment.producer()
        self._values = itertools.count()

    def start(self) -> None:
        """Start the workers."""
        self._deployment.start_workers(WORKERS, concurrency=1)

    def kill(self) -> list[float]:
        """Kill a worker, start another; return the seconds until those were answered whom it computed for."""
        answered: dict[int, float] = {}

        def note(value: int, done: Future[Any]) -> None:
            assert done.result()["value"] == value
            answered[value] = time.monotonic()

        values = [next(self._values) for _ in range(WAITERS)]
        waiting = [self._producer.submit("slow", {"value": value, "sleep_s": COMPUTE_S}) for value in values]
        for value, pending in zip(values, waiting, strict=True):
            pending.add_done_callback(lambda done, value=value: note(value, done))
        (first, *_) = self._deployment.wait_for_computations(values[0])
        time.sleep(self._chance.uniform(0.0, 0.9) * COMPUTE_S)
        victim = self._deployment.worker_of(first.pid)
        pids = {child.pid for child in victim.children()}
        killed_at = time.monotonic()
        victim.kill()
        replacement = self._deployment.start_worker(concurrency=1, wait=False)
        for pending in waiting:
            pending.result(_ANSWER_S)
        replacement.wait_ready()
        begun_there = [value for value in values if self._deployment.computations(value)[0].pid in pids]
        return [answered[value] - killed_at for value in begun_there if answered[value] > killed_at]


def recover(directory: Path, kills: int, seed: int) -> list[float]:
    """Kill so many workers; return all waits in seconds, the shortest first."""
    options: dict[str, Any] = {"lease_s": LEASE_S, "visibility_timeout_s": 60.0}
    with Deployment(directory, **options) as deployment:
        recovery = Recovery(deployment, seed)
        recovery.start()
        return sorted(itertools.chain.from_iterable(recovery.kill() for _ in range(kills)))


def report(console: Console, waits: Sequence[float], kills: int) -> bool:
    """Print the waits; return whether 99 in 100 were no longer than a lease and the computation."""
    bound_s = LEASE_S + COMPUTE_S
    p50, p99 = (waits[math.ceil(share * len(waits)) - 1] for share in (0.5, 0.99))
    console.print(
        f"{kills} workers killed under {len(waits)} waiters; from the kill to the answer: "
        f"p50 {p50:.3f} s, p99 {p99:.3f} s, max {waits[-1]:.3f} s (lease {LEASE_S:g} s + computation {COMPUTE_S:g} s)"
    )
    return p99 <= bound_s
