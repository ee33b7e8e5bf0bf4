"""A real RabbitMQ on this machine, of Debian's package, with a node, ports and data of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Final, Self

from acceptance.harness import wait_until

from foreseen.embedded import _free_port

__all__ = ["MISSING", "RabbitMQ"]

#: The wrapper on the path would run it as another user, in a folder of the machine's.
_SERVER: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_CTL: Final = _SERVER.with_name("rabbitmqctl")
_EPMD: Final = Path("/usr/bin/epmd")
#: Why it cannot be run here; empty if it can.
MISSING: Final = "" if _SERVER.exists() and _EPMD.exists() else "RabbitMQ is not installed (Debian: rabbitmq-server)"
#: It takes about 5 s on an idle machine.
_START_S: Final = 90.0


class RabbitMQ:
    """One server; what it has confirmed outlives it.

    Args:
        directory: of its own.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        ports = {"ERL_EPMD_PORT": str(_free_port()), "RABBITMQ_DIST_PORT": str(_free_port())}
        self._epmd_port = ports["ERL_EPMD_PORT"]
        config = directory / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.console = true\nlog.file = false\n"
            "disk_free_limit.absolute = 50MB\n"
        )
        self._environment = os.environ | ports | {
            "HOME": str(directory),  # where Erlang keeps its cookie
            "RABBITMQ_NODENAME": f"foreseen-{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
        }  # fmt: skip

    @property
    def url(self) -> str:
        """Of its default virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def __enter__(self) -> Self:
        # Else the server starts one that outlives it.
        command = [str(_EPMD), "-port", self._epmd_port, "-address", "127.0.0.1"]
        self._epmd = subprocess.Popen(command, start_new_session=True)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)
        self._epmd.kill()
        self._epmd.wait()

    def start(self) -> None:
        """Start, with the data that there is; return once it takes connections."""
        self._starts += 1
        log = self._directory / f"log-{self._starts}"
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [str(_SERVER)], env=self._environment, cwd=self._directory, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        wait_until(
            lambda: b"Server startup complete" in log.read_bytes() and self._listens(), "it has started", _START_S
        )

    def end(self, number: signal.Signals) -> None:
        """End it so, and wait until it has ended."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            self._process.wait(_START_S)
            self._process = None

    def messages(self) -> int:
        """Return how many messages there are in all queues: ready, and delivered but not acked."""
        command = [str(_CTL), "--quiet", "--node", self._environment["RABBITMQ_NODENAME"], "list_queues", "messages"]
        told = subprocess.run(
            [*command, "--no-table-headers"],
            env=self._environment, cwd=self._directory, capture_output=True, text=True, timeout=_START_S, check=True,
        )  # fmt: skip
        return sum(map(int, told.stdout.split()))

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
