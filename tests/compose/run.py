"""Run docker-compose.yml for real, under traffic: `.venv/bin/python tests/compose/run.py`.

Needs `docker compose`, its engine, and an environment in which foreseen is installed. It is no test of pytest's, as it
takes an engine and some minutes. It uses a project, ports and a login of its own, so that a deployment on the same
machine is not disturbed, and takes everything away at the end.

Two producers ask without a pause, one on this machine over the published ports and one in a container, while workers
come, go, are killed and crash. It prints a table: workers, requests and failures in each phase. It exits 1 if a request
failed, or if anything else was not as it must be.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from foreseen.errors import ForeseenError
from producer import Producer, Settings

_ROOT = Path(__file__).resolve().parents[2]
_TRAFFIC = Path(__file__).with_name("traffic.py")
#: How long anything may take that ought to happen by itself; reached only when something is wrong.
_PATIENCE_S = 120
#: How long each phase lasts beyond what it waits for; one in which a worker dies lasts two leases.
_PHASE_S = 8
_TWO_LEASES_S = 20


class Wrong(Exception):
    """Something is not as it must be; the message says what."""


def expect(holds: object, what: str) -> None:
    """Raise `Wrong` unless it holds."""
    if not holds:
        raise Wrong(what)


def wait_for(holds: Callable[[], object], what: str) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        expect(time.monotonic() < deadline, f"not so after {_PATIENCE_S} s: {what}")
        time.sleep(0.25)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Deployment:
    """The compose file, as a project of its own."""

    def __init__(self) -> None:
        self.project = f"foreseen-run-{os.getpid()}"
        self.login = f"run:{secrets.token_hex(8)}"
        self.ports = {name: free_port() for name in ("BROKER_PORT", "CACHE_PORT", "FLOWER_PORT")}
        # Nothing of this shell's or of .env may change what is tried; a name that is not set here has its default.
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("FORESEEN_", "COMPOSE_"))
        }
        self.environment = inherited | {name: str(port) for name, port in self.ports.items()}
        self.environment["FLOWER_BASIC_AUTH"] = self.login
        if image := os.environ.get("FORESEEN_IMAGE"):
            self.environment["FORESEEN_IMAGE"] = image

    @property
    def broker_url(self) -> str:
        """The broker, from this machine."""
        return f"redis://127.0.0.1:{self.ports['BROKER_PORT']}/0"

    @property
    def cache_url(self) -> str:
        """The cache, from this machine."""
        return f"redis://127.0.0.1:{self.ports['CACHE_PORT']}/0"

    def command(self, *arguments: str) -> list[str]:
        """Return a `docker compose` command line."""
        options = ("--project-name", self.project, "--file", str(_ROOT / "docker-compose.yml"))
        return ["docker", "compose", *options, "--env-file", os.devnull, *arguments]

    def compose(self, *arguments: str) -> str:
        """Run `docker compose` and return its output; raises `Wrong` with what it said if it fails."""
        return self._run(self.command(*arguments))

    def docker(self, *arguments: str) -> str:
        """Run `docker`, likewise."""
        return self._run(["docker", *arguments])

    def up(self, workers: int) -> None:
        """Bring up that many workers, and wait until all services say that they are healthy."""
        options = ("--detach", "--no-build", "--no-recreate", "--wait", "--wait-timeout", str(_PATIENCE_S))
        self.compose("up", *options, "--scale", f"worker={workers}")

    def workers(self) -> list[str]:
        """Return the ids of the worker containers that run."""
        return self.compose("ps", "--quiet", "--status", "running", "worker").split()

    def inspect(self, container: str, what: str) -> str:
        """Return something of what the engine knows of a container, such as `.State.ExitCode`."""
        return self.docker("inspect", "--format", f"{{{{{what}}}}}", container).strip()

    def healthy(self, container: str) -> bool:
        """Tell whether its health check says so."""
        return self.inspect(container, ".State.Health.Status") == "healthy"

    def left_over(self) -> list[str]:
        """Return what the engine still has of this project."""
        mine = ("--quiet", "--filter", f"label=com.docker.compose.project={self.project}")
        kinds = ("container ls --all", "volume ls", "network ls")
        return [line for kind in kinds for line in self.docker(*kind.split(), *mine).split()]

    def down(self) -> None:
        """Remove everything, the broker's volume too."""
        self.compose("--profile", "tools", "down", "--volumes", "--remove-orphans", "--timeout", "30")

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=2 * _PATIENCE_S, check=False
        )
        expect(done.returncode == 0, f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return done.stdout


@dataclass(frozen=True)
class Told:
    """What a producer has told so far."""

    answered: int = 0
    failed: int = 0
    errors: tuple[str, ...] = ()
    sources: tuple[tuple[str, int], ...] = ()


class Asking:
    """A producer process that asks as long as `with` lasts; `traffic.py` says what.

    Args:
        name: for messages.
        command: that starts it.
        environment: of the command.
    """

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        self.name = name
        self.told = Told()
        self.slowest_s: list[tuple[float, float]] = []  # when it was told, and the slowest answer since it last was
        self._command = command
        self._environment = environment
        self._said: list[str] = []

    def __enter__(self) -> Self:
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self._process = subprocess.Popen(self._command, env=self._environment, text=True, **streams)
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._hear, self._hear_errors)]
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self.finish()

    def finish(self) -> int:
        """Have it end once everything that is open has its answer; return its exit status."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        status = self._process.wait(_PATIENCE_S)
        for reader in self._readers:
            reader.join(_PATIENCE_S)
        return status

    def has_an_answer(self) -> bool:
        """Tell whether it has one; raises `Wrong` if it has ended by itself."""
        self.check()
        return self.told.answered > 0

    def check(self) -> None:
        """Raise `Wrong` if it has ended by itself."""
        if self._process.poll() is not None:
            raise Wrong(f"the producer {self.name} ended by itself:\n{''.join(self._said[-20:])}")

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            self.slowest_s.append((time.monotonic(), told["slowest_s"]))
            self.told = Told(
                told["answered"], told["failed"], tuple(told["errors"]), tuple(sorted(told["sources"].items()))
            )

    def _hear_errors(self) -> None:
        assert self._process.stderr is not None
        self._said += self._process.stderr


@dataclass(frozen=True)
class Phase:
    """One line of the table."""

    name: str
    workers: str
    seconds: float
    answered: list[int]  # by each producer
    failed: int
    slowest_s: float


class Course:
    """The phases, one after the other."""

    def __init__(self, deployment: Deployment, asking: Sequence[Asking]) -> None:
        self.deployment = deployment
        self.asking = asking
        self.phases: list[Phase] = []

    @contextmanager
    def phase(self, name: str, *, lasts_s: float = _PHASE_S) -> Iterator[None]:
        """Count what is asked while the block runs, and for some seconds after it."""
        before, began = [each.told for each in self.asking], time.monotonic()
        workers = str(len(self.deployment.workers()))
        yield
        time.sleep(lasts_s)
        for each in self.asking:
            each.check()
        now = str(len(self.deployment.workers()))
        self._note(name, workers if now == workers else f"{workers} to {now}", before, began)

    def finish(self) -> None:
        """Have the producers end, and count what was still open."""
        before, began = [each.told for each in self.asking], time.monotonic()
        for each in self.asking:
            expect(each.finish() == 0, f"the producer {each.name} ended with an error")
        self._note("the rest", str(len(self.deployment.workers())), before, began)

    def _note(self, name: str, workers: str, before: Sequence[Told], began: float) -> None:
        now = [each.told for each in self.asking]
        answered = [after.answered - earlier.answered for after, earlier in zip(now, before, strict=True)]
        failed = sum(after.failed - earlier.failed for after, earlier in zip(now, before, strict=True))
        slowest_s = max((slow for each in self.asking for when, slow in each.slowest_s if when >= began), default=0.0)
        phase = Phase(name, workers, time.monotonic() - began, answered, failed, slowest_s)
        self.phases.append(phase)
        print(line_of(phase), flush=True)


_HEAD = f"{'phase':<36} workers   time requests    here container failures  slowest"


def line_of(phase: Phase) -> str:
    """Return a line of the table."""
    here, container = phase.answered
    return (
        f"{phase.name:<36} {phase.workers:>7} {phase.seconds:>4.0f} s {here + container + phase.failed:>8,} {here:>7,} "
        f"{container:>9,} {phase.failed:>8,} {phase.slowest_s:>6.1f} s"
    )


def crash(deployment: Deployment, container: str) -> None:
    """Kill everything in a container from inside, as running out of memory could, and wait until it is back."""
    restarts = int(deployment.inspect(container, ".RestartCount"))
    with suppress(Wrong):  # it kills itself, too
        deployment.docker("exec", container, "python", "-c", "import os; os.kill(-1, 9)")
    wait_for(lambda: int(deployment.inspect(container, ".RestartCount")) > restarts, "the worker was started again")
    wait_for(lambda: deployment.healthy(container), "the worker that was started again is healthy")


def look_at_persistence(deployment: Deployment) -> str:
    """Check that what was submitted is still computed if the broker was restarted meanwhile; return what was seen."""
    with Producer(Settings(broker_url=deployment.broker_url, cache_url=deployment.cache_url)) as producer:
        producer.predict("file-type", b"#!/bin/sh\n")  # it knows the model from now on
        deployment.compose("stop", "worker")
        pendings = [producer.submit("file-type", f"#!/bin/sh\necho {number}\n".encode()) for number in range(20)]
        deployment.compose("restart", "broker")
        deployment.up(1)
        labels = {pending.result(timeout=_PATIENCE_S)["label"] for pending in pendings}
    expect(labels == {"shell"}, f"20 shell scripts were taken for {labels}")
    return f"{len(pendings)} tasks submitted with no worker, broker restarted, one worker started: all computed"


def look_at_flower(deployment: Deployment) -> str:
    """Check that Flower asks for its login, and that it shows workers and tasks; return what it showed."""
    port = deployment.ports["FLOWER_PORT"]

    def get(path: str, login: str | None) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
        if login is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310 - it is http
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, b""

    for path in ("/", "/api/tasks", "/api/workers"):
        for login in (None, "run:wrong"):
            status, _ = get(path, login)
            expect(status == 401, f"Flower's {path} answered {status} to {'a wrong' if login else 'no'} login")
        status, _ = get(path, deployment.login)
        expect(status == 200, f"Flower's {path} answered {status} to its login")

    def tasks() -> list[dict[str, Any]]:
        return list(json.loads(get("/api/tasks?limit=200", deployment.login)[1]).values())

    here = {f"celery@{deployment.inspect(each, '.Config.Hostname')}" for each in deployment.workers()}
    wait_for(lambda: here <= {each["worker"] for each in tasks()}, "Flower shows tasks of each worker")
    shown = tasks()
    states = sorted({each["state"] for each in shown})
    expect("SUCCESS" in states, f"Flower shows no task that succeeded, only {states}")
    expect("FAILURE" not in states, "Flower shows a task that failed")
    names = sorted({each["name"] for each in shown if each["name"]})
    return f"{len(shown)} tasks named {', '.join(names)}, {', '.join(states)}, of {len(here)} workers"


def run(deployment: Deployment, course: Course) -> None:
    """Go through all phases."""
    with course.phase("one worker"):
        pass
    with course.phase("up --scale worker=3"):
        deployment.up(3)
        expect(len(deployment.workers()) == 3, "there are three workers")
    print(f"Flower: 401 without its login, 200 with it; {look_at_flower(deployment)}", flush=True)
    with course.phase("docker kill one", lasts_s=_TWO_LEASES_S):
        deployment.docker("kill", deployment.workers()[0])
    expect(len(deployment.workers()) == 2, "two workers are left")
    with course.phase("up --scale worker=3: it is back"):
        deployment.up(3)
        expect(len(deployment.workers()) == 3, "there are three workers again")
    with course.phase("kill -9 inside one: restart policy", lasts_s=_TWO_LEASES_S):
        crash(deployment, deployment.workers()[0])
    with course.phase("up --scale worker=2: warm shutdown"):
        deployment.up(2)
        expect(len(deployment.workers()) == 2, "there are two workers")
    with course.phase("stop and start both, one by one"):
        for container in deployment.workers():
            deployment.docker("stop", container)
            status = deployment.inspect(container, ".State.ExitCode")
            expect(status == "0", f"a worker that was asked to stop ended with {status}, not by a warm shutdown")
            deployment.docker("start", container)
            wait_for(partial(deployment.healthy, container), "the worker is healthy again")
    course.finish()


def ask_and_run(deployment: Deployment) -> list[str]:
    """Go through all phases under traffic; return what went wrong with requests."""
    outside = deployment.environment | {
        "FORESEEN_BROKER_URL": deployment.broker_url,
        "FORESEEN_CACHE_URL": deployment.cache_url,
    }
    # The script travels as an argument: an engine on another machine could not mount a file of this one.
    script = _TRAFFIC.read_text(encoding="utf-8")
    inside = deployment.command("run", "--rm", "--no-TTY", "producer", "python", "-c", script, "submit")
    asking = [
        Asking("on this machine", [sys.executable, str(_TRAFFIC), "predict"], outside),
        Asking("in a container", inside, deployment.environment),
    ]
    with ExitStack() as stack:
        for each in asking:
            stack.enter_context(each)
        for each in asking:
            wait_for(each.has_an_answer, f"the producer {each.name} has an answer")
        print(_HEAD)
        run(deployment, Course(deployment, asking))
    failed, answered = (sum(getattr(each.told, name) for each in asking) for name in ("failed", "answered"))
    sources = ", ".join(f"{count:,} {source}" for source, count in asking[1].told.sources)
    print(f"\n{answered + failed:,} requests, {failed} failures. How the container's were answered: {sources}")
    return [error for each in asking for error in each.told.errors]


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-build", action="store_true", help="run the image as it is")
    arguments = parser.parse_args()
    deployment = Deployment()
    failures: list[str] = []
    try:
        if not arguments.no_build:
            deployment.compose("build")
        began = time.monotonic()
        deployment.up(1)
        print(f"up: broker, cache, Flower and one worker are healthy after {time.monotonic() - began:.1f} s\n")
        failures += ask_and_run(deployment)
        print(look_at_persistence(deployment))
    except (Wrong, ForeseenError, TimeoutError, subprocess.TimeoutExpired) as error:
        failures.append(f"{type(error).__name__}: {error}")
        with suppress(Wrong):
            print(deployment.compose("logs", "--no-color", "--tail", "20"), file=sys.stderr)
    finally:
        deployment.down()
    if left := deployment.left_over():
        failures.append(f"down left {len(left)} things behind: {' '.join(left)}")
    else:
        print("down --volumes: no container, volume or network is left")
    for failure in failures:
        print(f"wrong: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
