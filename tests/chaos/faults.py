"""What goes wrong, and when: drawn from a seed, noted with the time."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import psutil
import redis
from acceptance.harness import Deployment, Worker

from foreseen.embedded import EmbeddedServer

__all__ = ["Fault", "Faults"]

#: Between two faults; with workers that take two seconds to start there is nearly always one that is coming back.
PAUSE_S: Final = (0.3, 1.5)


@dataclass(frozen=True)
class Fault:
    """Something that went wrong.

    Attributes:
        name: for people.
        began: Unix seconds.
        ended: likewise.
        loses: the cache lost data by it, or was away for so long that leases lapsed.
        pids: of the processes that were hit.
    """

    name: str
    began: float
    ended: float
    loses: bool = False
    pids: tuple[int, ...] = ()


class Faults:
    """Injects faults into a deployment with two servers.

    Args:
        deployment: whose workers are hit.
        cache: the cache server; the deployment's own is the broker.
        seed: draws what happens.
        start_worker: starts one more.
    """

    def __init__(
        self, deployment: Deployment, cache: EmbeddedServer, seed: int, start_worker: Callable[[], object]
    ) -> None:
        self._deployment = deployment
        self._cache = cache
        self._chance = random.Random(seed)
        self._start_worker = start_worker
        self._lease_s = deployment.settings.lease_s
        self.happened: list[Fault] = []

    def run(self, until: float) -> None:
        """Go on until a time (Unix seconds)."""
        faults = (
            (self._kill_worker, 3), (self._kill_child, 5), (self._stop_worker, 2), (self._cut_cache, 4),
            (self._cut_broker, 3), (self._flush_cache, 1), (self._restart_cache_empty, 1),
            (self._restart_cache_with_data, 1), (self._restart_broker_with_data, 1), (self._evict_flights, 2),
        )  # fmt: skip
        kinds, weights = zip(*faults, strict=True)
        while time.time() < until:
            time.sleep(self._chance.uniform(*PAUSE_S))
            self._chance.choices(kinds, weights)[0]()

    def counts(self) -> Counter[str]:
        """Return how often each happened."""
        return Counter(fault.name for fault in self.happened)

    def _note(self, name: str, began: float, *, loses: bool = False, pids: tuple[int, ...] = ()) -> None:
        self.happened.append(Fault(name, began, time.time(), loses, pids))

    def _workers(self) -> list[Worker]:
        return [worker for worker in self._deployment.workers if worker.is_running and worker.logged(" ready.")]

    def _kill_worker(self) -> None:
        workers = self._workers()
        if len(workers) > 1:
            worker, began = self._chance.choice(workers), time.time()
            pids = (worker.pid, *(child.pid for child in worker.children()))
            worker.kill()
            self._note("kill -9 of a worker", began, pids=pids)
            self._start_worker()

    def _kill_child(self) -> None:
        if workers := self._workers():
            with suppress(psutil.Error, IndexError):
                child, began = self._chance.choice(self._chance.choice(workers).children()), time.time()
                child.kill()
                self._note("kill -9 of a pool process", began, pids=(child.pid,))

    def _stop_worker(self) -> None:
        if workers := self._workers():
            worker, began = self._chance.choice(workers), time.time()
            with suppress(psutil.Error, AssertionError):
                pids = (worker.pid, *(child.pid for child in worker.children()))
                worker.stop_process()
                time.sleep(self._lease_s * self._chance.uniform(0.5, 2.5))
                worker.continue_process()
                self._note("SIGSTOP of a worker, SIGCONT", began, pids=pids)

    def _cut(self, url: str, name: str) -> None:
        began = time.time()
        kind = self._chance.choice(["normal", "pubsub"])
        with redis.Redis.from_url(url) as client:
            client.client_kill_filter(_type=kind, skipme=True)
        self._note(f"all connections to the {name} cut", began)

    def _cut_cache(self) -> None:
        self._cut(self._cache.url(0), "cache")

    def _cut_broker(self) -> None:
        self._cut(self._deployment.settings.broker_url, "broker")

    def _flush_cache(self) -> None:
        began = time.time()
        with redis.Redis.from_url(self._cache.url(0)) as client:
            client.flushall()
        self._note("FLUSHALL of the cache", began, loses=True)

    def _evict_flights(self) -> None:
        """What a full cache does, without the wait: some of its keys are gone."""
        began = time.time()
        with redis.Redis.from_url(self._cache.url(0)) as client:
            names = [
                name for name in client.scan_iter("foreseen:[fegcxo]:*", count=1000) if self._chance.random() < 0.2
            ]
            if names:
                client.delete(*names)
        self._note("a fifth of the cache's keys evicted", began, loses=True)

    def _restart_cache_empty(self) -> None:
        began = time.time()
        self._cache.restart()
        self._note("cache killed, restarted empty", began, loses=True)

    def _restart_cache_with_data(self) -> None:
        began = time.time()
        self._cache.restart(keep_data=True)
        self._note("cache restarted with its data", began, loses=True)

    def _restart_broker_with_data(self) -> None:
        began = time.time()
        self._deployment.server.restart(keep_data=True)
        self._note("broker restarted with its data", began)
