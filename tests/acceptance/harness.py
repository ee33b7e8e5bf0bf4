"""A deployment of a test's own: a server, worker processes, producer processes, and the record of what was computed.

    def test_something(deploy):
        deployment = deploy(lease_s=1.0, visibility_timeout_s=20.0)    # ends with the test, whatever happens
        worker = deployment.start_worker("prefork", concurrency=2)
        producer = deployment.producer()
        pending = producer.submit("slow", {"value": 1, "wait_for": str(deployment.gate("go"))})
        (running,) = deployment.wait_for_computations(1)               # a model began to compute value 1
        worker.kill_child(running.pid)
        deployment.open_gate("go")
        assert pending.result(20)["value"] == 1
        assert len(deployment.computations(1)) == 2

What a process prints goes to a file under the test's directory; the ends of these files are shown when the test fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias

import psutil
import redis
from acceptance.zygote import ForkedProcess, Zygote
from served.record import LOG_VARIABLE, Computation, computations

from foreseen.broker import transport_options
from foreseen.canonical import canonicalize
from foreseen.embedded import EmbeddedServer
from foreseen.keys import KeySpace, key_of
from foreseen.settings import Settings
from producer import Producer

__all__ = ["DEADLINE_S", "POOLS", "Deployment", "Pool", "ProducerProcess", "Worker", "clean_environment", "wait_until"]

Pool: TypeAlias = Literal["prefork", "threads", "solo"]
POOLS: Final[tuple[Pool, ...]] = ("prefork", "threads", "solo")

#: Beyond what anything waited for here takes on a busy machine; reached only when the test fails.
DEADLINE_S: Final = 30.0
#: Between looks at what gives no event: a file, a process.
_POLL_S: Final = 0.01
#: Of each process, when a test fails.
_LOG_TAIL_LINES: Final = 60
_ROOT: Final = Path(__file__).resolve().parents[2]

#: What every producer script starts with.
_PRELUDE: Final = '''\
import json, os, sys, threading, time
from producer import *

arguments = json.loads(sys.argv[1])

saying = threading.Lock()

def say(value):
    """Send a JSON value to the test; from any thread."""
    with saying:
        print(json.dumps(value), flush=True)

def hear():
    """Wait for a JSON value from the test."""
    line = sys.stdin.readline()
    if not line:
        os._exit(3)  # the test is gone
    return json.loads(line)

def barrier():
    """Wait until every process of `run_producers` has come here."""
    say("ready")
    return hear()

'''

#: Reads a deployment's process groups, and kills them if the test's own process ends before it says that it is done.
_KEEPER: Final = """\
import os, signal, sys
lines = sys.stdin.read().split()
for group in lines if "done" not in lines else ():
    try:
        os.killpg(int(group), signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """Return the condition's value once it is true; fail with `what` if that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(_POLL_S)
    return value


def _has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more; who inherited it may take a while to collect it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what would change a deployment's settings, and where our code is."""
    foreign = ("FORESEEN_", "CELERY_", "PYTEST_", "KMP_")  # scikit-learn sets the last where it is imported
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
        "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
        "PYTHONUNBUFFERED": "1",
    }


class _Process:
    """A subprocess with a process group and a log of its own."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: dict[str, str],
        directory: Path,
        zygote: Zygote | None = None,
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.process: subprocess.Popen[str] | ForkedProcess
        with self.log.open("ab") as log:
            if zygote is not None and zygote.suits(environment):
                self.process = zygote.start(command, environment, directory, log.fileno())
            else:
                self.process = subprocess.Popen(
                    command,
                    env=environment,
                    cwd=directory,
                    stdin=subprocess.PIPE,
                    stdout=self._stdout(log.fileno()),
                    stderr=log,
                    text=True,
                    start_new_session=True,
                )

    @staticmethod
    def _stdout(log: int) -> int:
        return log

    @property
    def pid(self) -> int:
        """Process id; of the process group too."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def children(self) -> list[psutil.Process]:
        """Return its child processes: for a prefork worker, the pool's."""
        return psutil.Process(self.pid).children(recursive=True)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """SIGKILL the whole group, stopped or not, and wait until it is gone."""
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            children = self.children()
        self.signal(signal.SIGKILL)
        self.process.wait(DEADLINE_S)
        for child in children:
            wait_until(lambda each=child: _has_ended(each), f"{child} has ended")
        self.close_pipes()

    def close_pipes(self) -> None:
        """Close this side of them; left to the garbage collector, they are a warning in whichever test runs then."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # what was written last did not get through
                self.process.stdin.close()

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait until the process has ended; return its exit status."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout_s:g} s") from None

    def logged(self, text: str) -> int:
        """Return how often a text is in its log."""
        return self.log.read_text(errors="replace").count(text)

    def tail(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])


class Worker(_Process):
    """`celery -A workers worker`, as a user starts it, or forked where it would have come to the same."""

    def wait_ready(self, timeout_s: float = DEADLINE_S) -> Worker:
        """Wait until it consumes; return itself."""

        def is_ready() -> bool:
            if not self.is_running:
                raise AssertionError(f"{self.name} ended with status {self.process.returncode}:\n{self.tail()}")
            return self.logged(" ready.") > 0

        wait_until(is_ready, f"{self.name} is ready", timeout_s)
        return self

    def kill_child(self, pid: int) -> None:
        """SIGKILL one process of the pool, as the kernel does when memory runs out."""
        child = psutil.Process(pid)
        assert self.pid in {parent.pid for parent in child.parents()}, f"{pid} is no child of {self.name}"
        child.kill()

    def stop_process(self) -> None:
        """SIGSTOP the whole group, and wait until every process of it stands still."""
        self.signal(signal.SIGSTOP)
        group = [psutil.Process(self.pid), *self.children()]
        wait_until(lambda: all(each.status() == psutil.STATUS_STOPPED for each in group), f"{self.name} stands still")

    def continue_process(self) -> None:
        """SIGCONT the whole group."""
        self.signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask for a warm shutdown: SIGTERM to the parent, which finishes what runs. `wait()` waits for its end."""
        self.process.terminate()


class ProducerProcess(_Process):
    """A script in a process of its own; it has `say`, `hear`, `arguments` and everything of `producer` at hand."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str], directory: Path) -> None:
        super().__init__(name, command, environment, directory)
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, name=f"{name}-reader", daemon=True).start()

    @staticmethod
    def _stdout(log: int) -> int:
        del log
        return subprocess.PIPE

    def hear(self, timeout_s: float = DEADLINE_S) -> Any:
        """Return the next JSON value that the script says."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError(f"{self.name} said nothing for {timeout_s:g} s:\n{self.tail()}") from None
        if line is None:
            self._lines.put(None)
            raise AssertionError(f"{self.name} ended with status {self.wait()}:\n{self.tail()}")
        return json.loads(line)

    def say(self, value: Any = None) -> None:
        """Send a JSON value to the script."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def finish(self, timeout_s: float = DEADLINE_S) -> list[Any]:
        """Wait until the script has ended well; return what it said that was not heard yet."""
        status = self.wait(timeout_s)
        assert status == 0, f"{self.name} ended with status {status}:\n{self.tail()}"
        return [json.loads(line) for line in iter(lambda: self._lines.get(timeout=timeout_s), None)]

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                self._lines.put(line)
        self._lines.put(None)


class Deployment:
    """A server, and the processes of one test that use it; nothing of it runs after `close`.

    The broker is database 0 of the server, the cache database 1. The lease is short enough to wait for, the visibility
    timeout far longer than any computation of a test, so that only tests that set it see a redelivery by timeout.

    Args:
        directory: for logs, gates and the record; its own.
        models: modules that workers serve.
        server_config: further lines of the server's configuration.
        forked: whether workers come from `zygote`, if there is one; else each is a `celery` command of its own.
        settings: of `foreseen.settings.Settings`, such as `lease_s`; workers and producers get them all.

    Attributes:
        zygote: what workers of all deployments are forked from; pytest's session has one.
    """

    zygote: ClassVar[Zygote | None] = None

    def __init__(
        self,
        directory: Path,
        *,
        models: Sequence[str] = ("served.slow",),
        server_config: dict[str, str] | None = None,
        forked: bool = True,
        **settings: Any,
    ) -> None:
        self.directory = directory
        self.record = directory / "computations"
        self.server = EmbeddedServer(config=server_config)
        self.workers: list[Worker] = []
        self.producer_processes: list[ProducerProcess] = []
        self._models = models
        self._forked = forked
        self._options = {
            "lease_s": 2.0,
            "visibility_timeout_s": 60.0,
            "heartbeat_s": 0.5,
            "model_wait_s": 20.0,
            **settings,
        }
        self._producers: list[Producer] = []
        self._settings: Settings | None = None
        self._keeper: subprocess.Popen[str] | None = None

    def open(self) -> Deployment:
        """Start the server, and who ends everything should this process be killed."""
        command = [sys.executable, "-I", "-S", "-c", _KEEPER]
        self._keeper = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        self.server.start()
        self._settings = Settings(
            broker_url=self.server.url(0), cache_url=self.server.url(1), models=tuple(self._models), **self._options
        )
        return self

    def use_cache(self, url: str) -> None:
        """Keep entries and flights on another server than the broker; before any process is started."""
        self._settings = self.settings.model_copy(update={"cache_url": url})

    def use_broker(self, url: str) -> None:
        """Queue tasks at another broker; before any process is started."""
        self._settings = self.settings.model_copy(update={"broker_url": url})

    def close(self) -> None:
        """End everything; raises if a process would not go."""
        with contextlib.ExitStack() as stack:  # runs all of it, whichever part fails; the last pushed first
            stack.callback(self._dismiss_keeper)
            stack.callback(self.server.stop)
            for process in (*self.workers, *self.producer_processes):
                stack.callback(process.kill)
            for producer in self._producers:
                stack.callback(producer.close)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def settings(self) -> Settings:
        """The deployment's settings, as every process of it has them."""
        assert self._settings is not None
        return self._settings

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes: the settings and nothing of the caller's that could change them."""
        options = {f"FORESEEN_{name.upper()}": str(value) for name, value in self._options.items()}
        return clean_environment() | options | {
            "FORESEEN_BROKER_URL": self.settings.broker_url,
            "FORESEEN_CACHE_URL": self.settings.cache_url,
            "FORESEEN_MODELS": ",".join(self._models),
            LOG_VARIABLE: str(self.record),
        }  # fmt: skip

    @property
    def restore_interval_s(self) -> float:
        """How often workers look for messages whose visibility timeout has passed."""
        return float(transport_options(self.settings)["unacked_restore_interval"])

    # --- processes ----------------------------------------------------------------------------------------------------

    def start_worker(
        self,
        pool: Pool = "prefork",
        concurrency: int = 2,
        name: str | None = None,
        *,
        wait: bool = True,
        arguments: Sequence[str] = (),
        **environment: str,
    ) -> Worker:
        """Start a worker and wait until it consumes.

        Args:
            pool: Celery's pool.
            concurrency: of the pool; 1 for solo whatever is said.
            name: of the worker and its log; counted if not given.
            wait: False returns at once; call `wait_ready()` later, so that several start at the same time.
            arguments: further ones for the command line.
            environment: further variables, such as `FORESEEN_MAX_ATTEMPTS="2"`.
        """
        name = name or f"worker{len(self.workers)}"
        command = [
            # Mingling, an exchange of revoked tasks with other workers, holds up each start for a second.
            *(sys.executable, "-m", "celery", "-A", "workers", "worker", "--loglevel", "INFO", "--without-mingle"),
            *("--pool", pool, "--concurrency", str(concurrency), "--hostname", f"{name}@localhost", *arguments),
        ]
        zygote = self.zygote if self._forked else None
        worker = Worker(name, command, self.environment | environment, self.directory, zygote)
        self.workers.append(worker)
        self._tell_keeper(worker.pid)
        return worker.wait_ready() if wait else worker

    def start_workers(self, count: int, pool: Pool = "prefork", concurrency: int = 2) -> list[Worker]:
        """Start several workers at the same time, and wait until all consume."""
        workers = [self.start_worker(pool, concurrency, wait=False) for _ in range(count)]
        return [worker.wait_ready() for worker in workers]

    def start_producer(self, script: str, **arguments: Any) -> ProducerProcess:
        """Run a script in a process of its own.

        The script has `arguments` (a dict of JSON values), `say(value)`, `hear()`, `barrier()`, everything that
        `producer` exports, and `os`, `sys`, `threading`, `time` and `json`.
        """
        name = f"producer{len(self.producer_processes)}"
        path = self.directory / f"{name}.py"
        path.write_text(_PRELUDE + script)
        command = [sys.executable, str(path), json.dumps(arguments)]
        process = ProducerProcess(name, command, self.environment, self.directory)
        self.producer_processes.append(process)
        self._tell_keeper(process.pid)
        return process

    def run_producers(self, n_processes: int, script: str, **arguments: Any) -> list[list[Any]]:
        """Run a script in several processes at once; return what each said, in order.

        Every script calls `barrier()` once, when it is ready to start; `arguments["index"]` counts the processes.
        """
        processes = [self.start_producer(script, index=index, **arguments) for index in range(n_processes)]
        for process in processes:
            assert process.hear() == "ready"
        for process in processes:
            process.say("go")
        return [process.finish() for process in processes]

    def producer(self, **settings: Any) -> Producer:
        """Return a producer in this process; `settings` differ from the deployment's."""
        producer = Producer(self.settings.model_copy(update=settings))
        self._producers.append(producer)
        return producer

    # --- what happens -------------------------------------------------------------------------------------------------

    def computations(self, value: object = ...) -> list[Computation]:
        """Return the computations that models began, in order: all, or those of the input with that `value`."""
        return computations(self.record, value)

    def wait_for_computations(self, value: object, count: int = 1, timeout_s: float = DEADLINE_S) -> list[Computation]:
        """Wait until models have begun to compute that value `count` times."""
        wait_until(lambda: len(self.computations(value)) >= count, f"{count} computations of {value!r}", timeout_s)
        return self.computations(value)

    def gate(self, name: str) -> Path:
        """Return a file that does not exist yet, for the input `wait_for` of the model `slow`.

        The name `{pid}` makes it a gate for each process that computes, opened with its process id for a name.
        """
        return self.directory / f"gate-{name}"

    def open_gate(self, name: str | int) -> None:
        """Let go what waits for that gate."""
        self.gate(str(name)).touch()

    def close_gate(self, name: str | int) -> None:
        """Hold up what comes to that gate from now on."""
        self.gate(str(name)).unlink()

    def flight(self, request: Any, model: str = "slow", version: str = "1") -> dict[str, str]:
        """Return the fields of the flight of a request, none if it is not under way; see `scripts/lib/flight.lua`."""
        key = key_of(model, version, canonicalize(request))
        with self.redis() as client:
            fields = dict(client.hgetall(KeySpace(self.settings.namespace).flight(key)))
        return {name.decode(): value.decode(errors="replace") for name, value in fields.items()}

    def joiners(self, request: Any, kind: Literal["w", "d"]) -> int:
        """Return how many processes have joined the flight of a request: as waiters (`w`) or detached (`d`)."""
        return sum(name.startswith(f"{kind}:") for name in self.flight(request))

    def unsettled_messages(self) -> int:
        """Return how many messages the broker holds: queued, and delivered but not acked; but for dead letters."""
        with self.redis(0) as client:
            queues = client.scan_iter(f"{self.settings.namespace}.*@*", _type="list")
            queued = sum(client.llen(name) for name in queues)
            return int(queued + client.hlen("unacked"))

    def redis(self, db: int = 1) -> contextlib.AbstractContextManager[redis.Redis]:
        """Return a client of the server: of the cache, or of the broker (0)."""
        return redis.Redis.from_url(self.server.url(db))

    def worker_of(self, pid: int) -> Worker:
        """Return the worker that a process belongs to: its own, or one of its pool."""
        lineage = {pid, *(parent.pid for parent in psutil.Process(pid).parents())}
        return next(worker for worker in self.workers if worker.pid in lineage)

    def logs(self) -> Iterator[tuple[str, str]]:
        """Return name and end of each process's log."""
        for process in (*self.workers, *self.producer_processes):
            yield process.name, process.tail()

    def _tell_keeper(self, word: int | str) -> None:
        assert self._keeper is not None
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(f"{word}\n")
        self._keeper.stdin.flush()

    def _dismiss_keeper(self) -> None:
        if self._keeper is not None:
            with contextlib.suppress(BrokenPipeError):  # somebody killed it
                self._tell_keeper("done")
            self._keeper.communicate()  # closes its input, and waits
            self._keeper = None
