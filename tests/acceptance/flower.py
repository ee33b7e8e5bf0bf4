"""Flower over a deployment, asked through its API, with the login."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from acceptance.harness import Deployment

__all__ = ["Flower", "flower_over"]

_LOGIN: Final = "someone:secret"


class Flower:
    """Flower on a port of this machine."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._login = base64.b64encode(_LOGIN.encode()).decode()

    def read(self, path: str, method: str = "GET", *, login: bool = True) -> str:
        """Return what it answers, as text."""
        request = urllib.request.Request(self._url + path, method=method, data=b"" if method == "POST" else None)  # noqa: S310 - http, above
        if login:
            request.add_header("Authorization", f"Basic {self._login}")
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - (as above)
            return str(response.read().decode())

    def ask(self, path: str, method: str = "GET", *, login: bool = True) -> Any:
        """Return what it answers, which is JSON."""
        return json.loads(self.read(path, method, login=login))

    def answers(self) -> bool:
        """Whether it knows a worker."""
        try:
            return bool(self.ask("/api/workers?refresh=true"))
        except (OSError, urllib.error.HTTPError):
            return False

    def tasks(self, **filters: str) -> list[dict[str, Any]]:
        """Return what it shows of tasks, such as those of a `state`."""
        query = "&".join(f"{name}={value}" for name, value in filters.items())
        return list(self.ask(f"/api/tasks?limit=10000&{query}").values())

    def task(self, task_id: str) -> dict[str, Any]:
        """Return what it shows of a task; empty if it has not heard of it."""
        try:
            shown: dict[str, Any] = self.ask(f"/api/task/info/{task_id}")
        except urllib.error.HTTPError:
            return {}
        return shown


@contextmanager
def flower_over(deployment: Deployment) -> Iterator[Flower]:
    """Run Flower over a deployment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "celery", "-A", "workers", "flower", f"--port={port}", "--address=127.0.0.1"]
    environment = deployment.environment | {"FLOWER_BASIC_AUTH": _LOGIN}
    with (deployment.directory / "flower.log").open("wb") as log:
        running = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=deployment.directory)
    try:
        yield Flower(port)
    finally:
        running.kill()
        running.wait()
