"""A deployment whose parts are told apart: a broker, a cache, each a server of its own, a worker, this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psutil

from benchmarks.harness import Size
from benchmarks.stage import Stage, Worker, settings_for
from foreseen.embedded import EmbeddedServer
from producer import Producer

__all__ = ["ROLES", "Deployment", "deployed"]

ROLES: Final = ("producers", "cache", "broker", "workers")


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two servers that are asked as one: database 0 is the broker's, the others the cache's."""

    broker: EmbeddedServer
    cache: EmbeddedServer

    def url(self, db: int) -> str:
        return self.cache.url(db) if db else self.broker.url(0)


@dataclass(frozen=True, slots=True)
class Deployment:
    """What runs.

    Attributes:
        producer: of this process, open.
        settings: its.
    """

    producer: Producer
    settings: Any
    _processes: dict[str, list[psutil.Process]]

    def spent_s(self) -> dict[str, float]:
        """Return the processor time that each role has taken until now, in seconds."""
        return {role: sum(sum(process.cpu_times()[:2]) for process in self._processes[role]) for role in ROLES}


@contextmanager
def deployed(worker: Worker) -> Iterator[Deployment]:
    """Start it all, and leave nothing behind."""
    with ExitStack() as stack:
        pair: Any = _Pair(stack.enter_context(EmbeddedServer()), stack.enter_context(EmbeddedServer()))
        settings = settings_for(pair, namespace=worker.name)
        producer = stack.enter_context(Producer(settings))
        on = Stage(Size.FULL, pair, settings, producer, None, None)  # type: ignore[arg-type] - no bare Celery here
        stack.callback(on.have)
        on.have(worker)
        parent = psutil.Process(on.pid(worker))
        yield Deployment(
            producer,
            settings,
            {
                "producers": [psutil.Process()],
                "cache": [psutil.Process(pair.cache.pid)],
                "broker": [psutil.Process(pair.broker.pid)],
                "workers": [parent, *parent.children(recursive=True)],
            },
        )
