"""What the measures run on: one server, a worker of foreseen's, a worker of bare Celery's, and a producer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from foreseen.embedded import EmbeddedServer
from foreseen.settings import Settings
from producer import Producer

__all__ = ["MODEL", "Stage", "fresh_text", "stage"]

MODEL = "bench-echo"
#: What goes in and what comes out: the issue's 200 bytes.
_TEXT_CHARACTERS = 200
#: Both workers are up in about two seconds; a busy machine takes longer.
_START_S = 60.0
_STOP_S = 10.0
_ROOT = Path(__file__).parents[1]


def fresh_text() -> str:
    """Return 200 ASCII characters that nobody has asked for before."""
    return uuid.uuid4().hex.ljust(_TEXT_CHARACTERS, ".")


@dataclass(frozen=True, slots=True)
class Stage:
    """What a measure may use.

    Attributes:
        server: the one server; databases 0 and 1 are foreseen's broker and cache, 2 and 3 bare Celery's.
        producer: of foreseen, open.
        settings: the producer's.
        client: a plain redis-py client of the cache's database, with redis-py's defaults.
        known: a text whose answer is cached.
        bare_echo: bare Celery's task.
        worker_pids: of foreseen's worker and of bare Celery's, while they run.
        stop_workers: ends both workers.
    """

    server: EmbeddedServer
    producer: Producer
    settings: Settings
    client: redis.Redis
    known: str
    bare_echo: Any
    worker_pids: Callable[[], list[int]]
    stop_workers: Callable[[], None]


@contextmanager
def stage() -> Iterator[Stage]:
    """Start everything, and leave nothing behind.

    Both workers are one prefork process each, with everything else at its default.
    """
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        settings = Settings(
            broker_url=server.url(0),
            cache_url=server.url(1),
            # Long, so that nothing periodic falls into a measurement.
            card_refresh_s=3600,
            model_wait_s=_START_S,
        )
        bare = {"BENCH_BARE_BROKER_URL": server.url(2), "BENCH_BARE_RESULT_URL": server.url(3)}
        ours = {
            "FORESEEN_BROKER_URL": settings.broker_url,
            "FORESEEN_CACHE_URL": settings.cache_url,
            "FORESEEN_MODELS": "benchmarks.models",
        }
        running = [_start("workers", ours), _start("benchmarks.bare", bare)]
        stack.callback(_stop, running)
        os.environ.update(bare)
        from benchmarks.bare import echo

        producer = stack.enter_context(Producer(settings))
        client = stack.enter_context(redis.Redis.from_url(server.url(1)))
        text = fresh_text()
        if producer.predict(MODEL, text, timeout=_START_S) != text or echo.delay(text).get(timeout=_START_S) != text:
            raise RuntimeError("a worker echoes something else than it was sent")
        yield Stage(
            server, producer, settings, client, text, echo,
            worker_pids=lambda: [process.pid for process in running],
            stop_workers=lambda: _stop(running),
        )  # fmt: skip


def _start(app: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a worker that ends with this process, even if this process is killed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FORESEEN_", "CELERY_"))}
    leash = [sys.executable, "-m", "foreseen.cli.leash", str(os.getpid()), ""]  # no directory to remove
    worker = ["-A", app, "worker", "--pool", "prefork", "--concurrency", "1", "--loglevel", "ERROR"]
    return subprocess.Popen(
        [*leash, *worker, "--hostname", f"{app}@%h"],
        env={**inherited, **environment, "PYTHONWARNINGS": "ignore"},  # such as Celery's on running as root
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def _stop(running: list[subprocess.Popen[bytes]]) -> None:
    """End workers, gently at first; each has a process group of its own."""
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while running:
        process = running.pop()
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
