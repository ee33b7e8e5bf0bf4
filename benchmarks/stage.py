"""What the measures run on: one server, the workers that a measure asks for, and a producer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from benchmarks.harness import Size
from foreseen.embedded import EmbeddedServer
from foreseen.settings import Settings
from producer import Producer

__all__ = [
    "BARE", "BARE_THREADS", "DEADLINE_S", "ECHO", "ECHO_THREADS", "MODEL",
    "Stage", "Worker", "fresh_text", "fresh_texts", "settings_for", "stage",
]  # fmt: skip

MODEL: Final = "bench-echo"
#: Bound on each single wait for an answer, of 5,000 tasks on a busy machine too.
DEADLINE_S: Final = 120.0
#: What goes in and what comes out.
_TEXT_CHARACTERS: Final = 200
_STOP_S: Final = 10.0
_ROOT: Final = Path(__file__).parents[1]


def fresh_text() -> str:
    """Return 200 ASCII characters that nobody has asked for before."""
    return uuid.uuid4().hex.ljust(_TEXT_CHARACTERS, ".")


def fresh_texts(count: int) -> list[str]:
    """Return so many of them."""
    return [fresh_text() for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process with its pool; everything that is not said here is at its default.

    Attributes:
        app: `workers`, or `benchmarks.bare`.
        models: module of the models that it serves; "" for bare Celery.
        model: one of them, which says when it is ready.
        pool: of Celery's.
        slots: how many tasks it computes at once.
        name: the namespace of foreseen's, the queue of bare Celery's, so that two can run side by side.
    """

    app: str
    models: str
    model: str
    pool: str
    slots: int
    name: str


#: One prefork process each, of the model and the task that do nothing.
ECHO: Final = Worker("workers", "benchmarks.models", MODEL, "prefork", 1, "foreseen")
BARE: Final = Worker("benchmarks.bare", "", "", "prefork", 1, "celery")
#: Likewise, with as many threads as there are callers at most.
ECHO_THREADS: Final = Worker("workers", "benchmarks.models", MODEL, "threads", 64, "foreseen-threads")
BARE_THREADS: Final = Worker("benchmarks.bare", "", "", "threads", 64, "threads")


def settings_for(server: EmbeddedServer, **changes: Any) -> Settings:
    """Return a producer's settings: nothing periodic falls into a measurement, and every hit goes to the server."""
    # A tree without a near cache has no setting for it.
    near = {"near_cache_bytes": 0} if "near_cache_bytes" in Settings.model_fields else {}
    given = {"broker_url": server.url(0), "cache_url": server.url(1), "card_refresh_s": 3600, **near, **changes}
    return Settings(model_wait_s=DEADLINE_S, **given)


@dataclass(slots=True)
class Stage:
    """What a measure may use.

    Attributes:
        size: of the run.
        server: the one server; databases 0 and 1 are foreseen's broker and cache, 2 and 3 bare Celery's.
        settings: the producer's.
        producer: of foreseen, open.
        client: a plain redis-py client of the cache's database, with redis-py's defaults.
        bare: the module of bare Celery's app and tasks.
    """

    size: Size
    server: EmbeddedServer
    settings: Settings
    producer: Producer
    client: redis.Redis
    bare: Any
    _running: dict[Worker, subprocess.Popen[bytes]] = field(default_factory=dict[Worker, "subprocess.Popen[bytes]"])

    def have(self, *workers: Worker) -> None:
        """End all workers but these, and return once these run and answer."""
        gone = [self._running.pop(each) for each in list(self._running) if each not in workers]
        missing = [each for each in workers if each not in self._running]
        for each in missing:
            self._running[each] = self._start(each)
        _stop(gone)
        for each in missing:
            self._await_answer(each)

    def known(self) -> str:
        """Return a text whose answer is cached; a worker of the model that echoes must run."""
        text = fresh_text()
        assert self.producer.predict(MODEL, text) == text
        return text

    def ask_bare(self, worker: Worker, text: str) -> str:
        """Return what bare Celery's task gives back, from that worker."""
        answer: str = self.bare.echo.apply_async((text,), queue=worker.name).get(timeout=DEADLINE_S)
        return answer

    def pid(self, worker: Worker) -> int:
        """Return the process id of one that runs."""
        return self._running[worker].pid

    def _start(self, worker: Worker) -> subprocess.Popen[bytes]:
        """Start a worker that ends with this process, even if this process is killed."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FORESEEN_", "CELERY_"))}
        ours = {
            "FORESEEN_BROKER_URL": self.settings.broker_url,
            "FORESEEN_CACHE_URL": self.settings.cache_url,
            "FORESEEN_NAMESPACE": worker.name,
            "FORESEEN_MODELS": worker.models,
        }
        leash = [sys.executable, "-m", "foreseen.cli.leash", str(os.getpid()), ""]  # no directory to remove
        options = ["--pool", worker.pool, "--concurrency", str(worker.slots), "--loglevel", "ERROR"]
        queue = [] if worker.models else ["--queues", worker.name]
        name = f"{worker.app}.{worker.name}@%h"
        return subprocess.Popen(
            [*leash, "-A", worker.app, "worker", *options, *queue, "--hostname", name],
            # Warnings such as Celery's on running as root.
            env={**inherited, **(ours if worker.models else {}), "PYTHONWARNINGS": "ignore"},
            cwd=_ROOT,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _await_answer(self, worker: Worker) -> None:
        text = fresh_text()
        if worker.models:
            with Producer(settings_for(self.server, namespace=worker.name)) as producer:
                answer = producer.predict(worker.model, text, timeout=DEADLINE_S)
        else:
            answer = self.ask_bare(worker, text)
        if answer != text:
            raise RuntimeError("a worker echoes something else than it was sent")


@contextmanager
def stage(size: Size) -> Iterator[Stage]:
    """Start the server, and leave nothing behind."""
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        os.environ.update({"BENCH_BARE_BROKER_URL": server.url(2), "BENCH_BARE_RESULT_URL": server.url(3)})
        from benchmarks import bare

        settings = settings_for(server)
        producer = stack.enter_context(Producer(settings))
        client = stack.enter_context(redis.Redis.from_url(server.url(1)))
        on = Stage(size, server, settings, producer, client, bare)
        stack.callback(on.have)  # none
        yield on


def _stop(workers: list[subprocess.Popen[bytes]]) -> None:
    """End workers, gently at first; each has a process group of its own."""
    for process in workers:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    for process in workers:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
