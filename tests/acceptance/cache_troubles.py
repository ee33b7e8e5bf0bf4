"""What tests of a troubled cache share: both faces behind one name, a name that leads to another server, Sentinels."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self

import redis
from acceptance.clusters import Node
from acceptance.harness import DEADLINE_S, Deployment, wait_until

from foreseen import embedded
from foreseen.embedded import EmbeddedServer, _free_port
from producer import AsyncProducer, CacheUnavailable

__all__ = ["Doorway", "Face", "OnALoop", "answered_again", "faces", "sentinel", "sentinels", "told_of_cache"]

#: Of a service in the tests' Sentinels.
SERVICE: Final = "predictions"
#: Where Sentinels save what they learn, and wait for it. One that was held up for two seconds, by a disk that others
#: use too, does nothing for thirty: it does not even name the master that it has just made (TILT).
_IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - each has a folder of its own there
#: How often `answered_again` asks.
_ASK_AGAIN_S: Final = 0.02


class Face:
    """A producer of either kind, called from threads."""

    def __init__(self, name: str, predict: Callable[..., Any], outages: Callable[[], Any]) -> None:
        self.name = name
        self.predict = predict
        self.outages = outages

    def __repr__(self) -> str:
        return self.name


class OnALoop:
    """An `AsyncProducer` on the loop of a thread of its own."""

    def __init__(self, deployment: Deployment, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.producer = AsyncProducer(deployment.settings.model_copy(update=settings))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self.producer.close())
        # With TLS a connection ends once the server has answered the goodbye, for which nobody waits.
        open_ones: Any = self._loop._selector.get_map()  # type: ignore[attr-defined]
        wait_until(lambda: len(open_ones) == 1, "only the loop's own is open")
        self.call(asyncio.sleep(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(2 * DEADLINE_S)

    def predict(self, *arguments: Any, **options: Any) -> Any:
        """Predict there."""
        return self.call(self.producer.predict(*arguments, **options))

    def submit(self, *arguments: Any, **options: Any) -> Any:
        """Submit there."""
        return self.call(self.producer.submit(*arguments, **options))


@contextlib.contextmanager
def faces(deployment: Deployment, **settings: Any) -> Iterator[list[Face]]:
    """Yield a producer of each kind."""
    threads = deployment.producer(**settings)
    with OnALoop(deployment, **settings) as loop:
        yield [
            Face("threads", threads.predict, threads.outages),
            Face("loop", loop.predict, lambda: loop.call(loop.producer.outages())),
        ]
    threads.close()


def answered_again(face: Face, request: dict[str, Any], model: str = "slow") -> Any:
    """Ask until the cache is there again; what is said meanwhile is that it is not, and nothing else."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return face.predict(model, request, timeout=DEADLINE_S)["value"]
        except CacheUnavailable:
            assert time.monotonic() < deadline
            time.sleep(_ASK_AGAIN_S)


def told_of_cache(log: str) -> list[str]:
    """Return the lines of a log that speak of the cache server."""
    return [line for line in log.splitlines() if "cache server at" in line]


class Doorway:
    """A port that leads to a server, and later to another; who has come through stays where he is.

    Args:
        port: of the server that it leads to first.
    """

    def __init__(self, port: int) -> None:
        self._leads_to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.came_through: list[int] = []

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE_S)

    def lead_to(self, port: int) -> None:
        """Lead to another server who comes from now on."""
        self._leads_to = port

    def _accept(self) -> None:
        while True:
            try:
                inside, _ = self._listener.accept()
            except OSError:
                return
            outside = socket.create_connection(("127.0.0.1", self._leads_to))
            self.came_through.append(self._leads_to)
            self._sockets += [inside, outside]
            for pair in ((inside, outside), (outside, inside)):
                thread = threading.Thread(target=self._carry, args=pair, daemon=True)
                self._threads.append(thread)
                thread.start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextlib.contextmanager
def sentinel(deployment: Deployment, master: EmbeddedServer, n_replicas: int = 1) -> Iterator[int]:
    """Run a Sentinel that watches a master; yields its port once it knows the replicas."""
    with sentinels(deployment, master, n_replicas, count=1) as ports:
        yield next(iter(ports))


@contextlib.contextmanager
def sentinels(
    deployment: Deployment,
    master: EmbeddedServer | Node,
    n_replicas: int = 1,
    *,
    count: int = 3,
    binary: Path | None = None,
    configure: Callable[[int], str] = lambda _: "",
    **client: Any,
) -> Iterator[dict[int, int]]:
    """Run Sentinels that watch a master; yields process ids by port once they know the replicas and each other.

    Args:
        deployment: whose directory they use.
        master: a server that runs.
        n_replicas: that it has.
        count: of Sentinels; most of them must agree.
        binary: of the server.
        configure: returns further lines of their configuration, given their port.
        client: options of redis-py's, of a client of them.
    """
    ports, known = [_free_port() for _ in range(count)], (n_replicas, count - 1)
    with contextlib.ExitStack() as stack:
        pids: dict[int, int] = {}
        memory = _IN_MEMORY if _IN_MEMORY.is_dir() else None
        for port in ports:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory)))
            config = directory / "sentinel.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\n"
                f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} {count // 2 + 1}\n"
                f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 3000\n"
                f"{configure(port)}"
            )
            with (deployment.directory / f"sentinel-{port}.log").open("wb") as log:
                process = subprocess.Popen(
                    [binary or embedded._server_binary(), str(config), "--sentinel"],
                    cwd=directory, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            deployment._tell_keeper(process.pid)
            stack.callback(process.wait)
            stack.callback(process.kill)
            pids[port] = process.pid
        for port in ports:
            with redis.Redis(port=port, decode_responses=True, **client) as asking:
                wait_until(lambda asking=asking: _knows(asking) == known, "the Sentinel knows the others")
        yield pids


def _knows(client: Any) -> tuple[int, int]:
    """Return how many replicas and other Sentinels one knows."""
    try:
        told = client.sentinel_master(SERVICE)
    except redis.ConnectionError:
        return -1, -1
    return int(told["num-slaves"]), int(told["num-other-sentinels"])
