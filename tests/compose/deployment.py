"""The compose file, run as a project of its own by whatever engine there is."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["PATIENCE_S", "ROOT", "Deployment", "Wrong", "expect", "missing_engine", "wait_for"]

ROOT = Path(__file__).resolve().parents[2]
#: How long anything may take that ought to happen by itself; reached only when something is wrong.
PATIENCE_S = 120
_PORTS = ("BROKER_PORT", "CACHE_PORT", "FLOWER_PORT", "PROMETHEUS_PORT")
_PROFILES = ("tools", "dev", "monitoring")


class Wrong(Exception):
    """Something is not as it must be; the message says what."""


def expect(holds: object, what: str) -> None:
    """Raise `Wrong` unless it holds."""
    if not holds:
        raise Wrong(what)


def wait_for(holds: Callable[[], object], what: str) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        expect(time.monotonic() < deadline, f"not so after {PATIENCE_S} s: {what}")
        time.sleep(0.25)


def missing_engine() -> str | None:
    """Return what is missing to run containers, None if nothing is."""
    asked = {"docker compose": ["docker", "compose", "version"], "Docker engine that answers": ["docker", "version"]}
    for what, command in asked.items():
        try:
            done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
        except OSError:
            return "docker"
        if done.returncode != 0:
            return what
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Deployment:
    """The compose file, as a project with ports, a login and a folder of models of its own.

    Args:
        models: what the profile `dev` serves.
    """

    def __init__(self, models: Path) -> None:
        self.project = f"foreseen-run-{os.getpid()}"
        self.login = f"run:{secrets.token_hex(8)}"
        self.ports = {name: _free_port() for name in _PORTS}
        # Nothing of this shell's or of .env may change what is tried; a name that is not set here has its default.
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("FORESEEN_", "COMPOSE_"))
        }
        self.environment = inherited | {name: str(port) for name, port in self.ports.items()}
        self.environment |= {"FLOWER_BASIC_AUTH": self.login, "MODELS_FOLDER": str(models)}
        if image := os.environ.get("FORESEEN_IMAGE"):
            self.environment["FORESEEN_IMAGE"] = image

    @property
    def image(self) -> str:
        """The image of workers, Flower and producers."""
        return self.environment.get("FORESEEN_IMAGE", "foreseen")

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
        options = ("--project-name", self.project, "--file", str(ROOT / "docker-compose.yml"))
        return ["docker", "compose", *options, "--env-file", os.devnull, *arguments]

    def compose(self, *arguments: str) -> str:
        """Run `docker compose` and return its output; raises `Wrong` with what it said if it fails."""
        return self._run(self.command(*arguments))

    def docker(self, *arguments: str) -> str:
        """Run `docker`, likewise."""
        return self._run(["docker", *arguments])

    def up(self, workers: int, *more: str) -> None:
        """Bring up that many workers, and wait until all services say that they are healthy.

        Args:
            workers: how many.
            more: options and services; without, all services, and what runs stays as it is.
        """
        options = ("--detach", "--no-build", "--wait", "--wait-timeout", str(PATIENCE_S))
        self.compose("up", *options, "--scale", f"worker={workers}", *(more or ("--no-recreate",)))

    def up_with(self, profile: str, *services: str) -> None:
        """Bring up services of a profile, and wait for them; the others stay as they are."""
        options = ("--detach", "--no-build", "--no-recreate", "--wait", "--wait-timeout", str(PATIENCE_S))
        self.compose("--profile", profile, "up", *options, "--no-deps", *services)

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's containers that run."""
        return self.compose(*_all_profiles(), "ps", "--quiet", "--status", "running", service).split()

    def workers(self) -> list[str]:
        """Return the ids of the worker containers that run."""
        return self.containers("worker")

    def starts(self) -> dict[str, str]:
        """Return for each container when it was started last."""
        containers = self.compose(*_all_profiles(), "ps", "--quiet", "--all").split()
        return {each: self.inspect(each, ".State.StartedAt") for each in containers}

    def inspect(self, container: str, what: str) -> str:
        """Return something of what the engine knows of a container, such as `.State.ExitCode`."""
        return self.docker("inspect", "--format", f"{{{{{what}}}}}", container).strip()

    def is_healthy(self, container: str) -> bool:
        """Tell whether its health check says so."""
        return self.inspect(container, ".State.Health.Status") == "healthy"

    def left_over(self) -> list[str]:
        """Return what the engine still has of this project."""
        mine = ("--quiet", "--filter", f"label=com.docker.compose.project={self.project}")
        kinds = ("container ls --all", "volume ls", "network ls")
        return [line for kind in kinds for line in self.docker(*kind.split(), *mine).split()]

    def down(self) -> None:
        """Remove everything, the volumes too."""
        self.compose(*_all_profiles(), "down", "--volumes", "--remove-orphans", "--timeout", "30")

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False
        )
        expect(done.returncode == 0, f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return done.stdout


def _all_profiles() -> list[str]:
    return [word for profile in _PROFILES for word in ("--profile", profile)]
