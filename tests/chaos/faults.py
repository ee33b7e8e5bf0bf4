"""What goes wrong, and when: drawn from a seed, noted with the time.

All times here and in the histories are those of the machine's monotonic clock: its processes share it, and nobody sets
it, not even where a worker's wall clock is shifted.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgpack
import psutil
import redis
from acceptance.harness import Deployment, Worker

from chaos.proxy import Proxy
from foreseen.embedded import EmbeddedServer

__all__ = ["KINDS", "SHIFTS_S", "Fault", "Faults", "shifted_clock"]

_HERE: Final = Path(__file__).resolve().parent
#: Between two faults; with workers that take two seconds to start there is nearly always one that is coming back.
PAUSE_S: Final = (0.3, 1.5)
#: Held up each way; three round trips of it still fit between two renewals of a lease.
DELAY_S: Final = (0.02, 0.12)
#: The clocks that workers are started with: more than a minute apart, each way.
SHIFTS_S: Final = (0, 90, -90)
#: Filler is written until as many keys were evicted as there were, a piece of this size at a time.
_FILLER: Final = b"x" * 4096
#: Left to the cache when it is to be full: what connections need, which cannot be evicted.
_ROOM_BYTES: Final = 2**20


@dataclass(frozen=True)
class Fault:
    """Something that went wrong.

    Attributes:
        name: for people.
        began: monotonic seconds.
        ended: likewise.
        loses: the cache lost data by it, or was away for so long that leases lapsed.
        pids: of the processes that were hit.
        inputs: whose messages were in the broker when it lost its data; None if it did not.
    """

    name: str
    began: float
    ended: float
    loses: bool = False
    pids: tuple[int, ...] = ()
    inputs: frozenset[int] | None = None


class _Hit(NamedTuple):
    """What a fault did: the same fields, and how long it goes on by itself."""

    loses: bool = False
    pids: tuple[int, ...] = ()
    inputs: frozenset[int] | None = None
    lasts_s: float = 0.0


#: Does it; None if there was nothing to hit.
_Act: TypeAlias = Callable[["Faults"], _Hit | None]


class Faults:
    """Injects faults into a deployment with two servers.

    Args:
        deployment: whose workers are hit.
        cache: the cache server; the deployment's own is the broker.
        proxies: through which producers and workers reach them, by name: `cache` and `broker`.
        seed: draws what happens.
        start_worker: starts one more.
    """

    def __init__(
        self,
        deployment: Deployment,
        cache: EmbeddedServer,
        proxies: dict[str, Proxy],
        seed: int,
        start_worker: Callable[[], object],
    ) -> None:
        self._deployment = deployment
        self._servers = {"cache": cache, "broker": deployment.server}
        self._proxies = proxies
        self._chance = random.Random(seed)
        self._start_worker = start_worker
        self._lease_s = deployment.settings.lease_s
        self._away_s = self._lease_s + deployment.settings.reply_timeout_s
        self._due = list(_TABLE)
        self._chance.shuffle(self._due)
        self.happened: list[Fault] = []

    @property
    def pending(self) -> list[str]:
        """Those that have not happened yet."""
        return [name for name, _, _ in self._due]

    def run(self, until: float) -> None:
        """Go on until a time: first each of them once, in drawn order, then as chance and their weights will."""
        while time.monotonic() < until:
            time.sleep(self._chance.uniform(*PAUSE_S))
            row = self._due.pop(0) if self._due else self._chance.choices(_TABLE, [weight for *_, weight in _TABLE])[0]
            name, act, _ = row
            began = time.monotonic()
            hit = act(self)
            if hit is not None:
                ended = max(time.monotonic(), began + hit.lasts_s)
                self.happened.append(Fault(name, began, ended, hit.loses, hit.pids, hit.inputs))
            elif name not in {fault.name for fault in self.happened}:
                self._due.append(row)

    # --- processes ----------------------------------------------------------------------------------------------------

    def _workers(self) -> list[Worker]:
        return [worker for worker in self._deployment.workers if worker.is_running and worker.logged(" ready.")]

    def kill_worker(self) -> _Hit | None:
        """SIGKILL a worker and its pool, and start another."""
        workers = self._workers()
        if len(workers) < 2:
            return None
        worker = self._chance.choice(workers)
        pids = _pids(worker)
        worker.kill()
        self._start_worker()
        return _Hit(pids=pids)

    def kill_child(self) -> _Hit | None:
        """SIGKILL a process of a pool."""
        children = [child for worker in self._workers() for child in worker.children()]
        with suppress(psutil.Error, IndexError):
            child = self._chance.choice(children)
            child.kill()
            return _Hit(pids=(child.pid,))
        return None

    def stop_worker(self) -> _Hit | None:
        """SIGSTOP a worker and its pool for half a lease or several; then it goes on as if nothing had been."""
        with suppress(psutil.Error, AssertionError, IndexError):
            worker = self._chance.choice(self._workers())
            pids = _pids(worker)
            worker.stop_process()
            time.sleep(self._lease_s * self._chance.uniform(0.5, 2.5))
            worker.continue_process()
            return _Hit(pids=pids)
        return None

    # --- connections --------------------------------------------------------------------------------------------------

    def cut(self, which: str) -> _Hit:
        """Have a server close all connections of a kind."""
        kind = self._chance.choice(["normal", "pubsub"])
        with self._client(which) as client:
            client.client_kill_filter(_type=kind, skipme=True)
        return _Hit()

    def delay(self, which: str) -> _Hit:
        """Hold up everything, either way, for two leases. Nothing may lapse of that."""
        self._proxies[which].delay(*DELAY_S, for_s=2 * self._lease_s)
        return _Hit(lasts_s=2 * self._lease_s)

    def half_open(self, which: str) -> _Hit:
        """Swallow what is sent over the connections that are open, for longer than a reply may take and a lease."""
        lasts_s = self._away_s * self._chance.uniform(1.1, 1.5)
        self._proxies[which].swallow(lasts_s, also_new=self._chance.random() < 0.5)
        # Who could not renew in time is taken over: as if the cache had been away.
        return _Hit(loses=which == "cache", lasts_s=lasts_s)

    # --- servers ------------------------------------------------------------------------------------------------------

    def flush_cache(self) -> _Hit:
        """FLUSHALL."""
        with self._client("cache") as client:
            client.flushall()
        return _Hit(loses=True)

    def evict_a_fifth(self) -> _Hit:
        """What a full cache does, without the wait: some of its keys are gone."""
        with self._client("cache") as client:
            names = [
                name for name in client.scan_iter("foreseen:[fegcxo]:*", count=1000) if self._chance.random() < 0.2
            ]
            if names:
                client.delete(*names)
        return _Hit(loses=True)

    def fill_cache(self) -> _Hit:
        """Give the cache no more memory than it has, and write until the server itself evicts."""
        with self._client("cache") as client:
            keys: int = client.dbsize()  # type: ignore[assignment]
            policy = self._chance.choice(["allkeys-lru", "allkeys-lfu"])
            client.config_set("maxmemory-policy", policy)
            client.config_set("maxmemory", _info(client, "used_memory") + _ROOM_BYTES)
            enough = _info(client, "evicted_keys") + keys
            end = time.monotonic() + self._lease_s
            while _info(client, "evicted_keys") < enough and time.monotonic() < end:
                with client.pipeline(transaction=False) as pipe:
                    for _ in range(100):
                        pipe.set(f"filler:{self._chance.random()}", _FILLER, px=5000)
                    pipe.execute(raise_on_error=False)  # refused while connections' buffers alone are too much
            client.config_set("maxmemory", 0)
        return _Hit(loses=True)

    def restart_cache(self, *, keep_data: bool) -> _Hit:
        """End the cache's server and start it again."""
        self._servers["cache"].restart(keep_data=keep_data)
        return _Hit(loses=True)  # with its data, too: it is away while it saves and loads

    def restart_broker(self, *, keep_data: bool) -> _Hit:
        """End the broker and start it again; without its data, what nobody waits for may be lost."""
        if keep_data:
            self._servers["broker"].restart(keep_data=True)
            return _Hit()
        with self._client("broker") as client:
            inputs = frozenset(_inputs_in(client, self._deployment.settings.namespace))
        self._servers["broker"].restart()
        return _Hit(inputs=inputs)

    @contextmanager
    def _client(self, which: str) -> Iterator[redis.Redis]:
        """Return a client of a server itself, not through its proxy."""
        with redis.Redis.from_url(self._servers[which].url(0)) as client:
            yield client


#: What happens, how it is done, and how often in proportion.
_TABLE: Final[tuple[tuple[str, _Act, int], ...]] = (
    ("kill -9 of a worker", Faults.kill_worker, 3),
    ("kill -9 of a pool process", Faults.kill_child, 5),
    ("SIGSTOP of a worker, SIGCONT", Faults.stop_worker, 2),
    ("all connections to the cache cut", lambda faults: faults.cut("cache"), 4),
    ("all connections to the broker cut", lambda faults: faults.cut("broker"), 3),
    ("all connections to the cache delayed", lambda faults: faults.delay("cache"), 2),
    ("all connections to the broker delayed", lambda faults: faults.delay("broker"), 2),
    ("all connections to the cache half-open", lambda faults: faults.half_open("cache"), 2),
    ("all connections to the broker half-open", lambda faults: faults.half_open("broker"), 2),
    ("FLUSHALL of the cache", Faults.flush_cache, 1),
    ("a fifth of the cache's keys evicted", Faults.evict_a_fifth, 2),
    ("the cache's memory filled, keys evicted", Faults.fill_cache, 1),
    ("cache killed, restarted empty", lambda faults: faults.restart_cache(keep_data=False), 1),
    ("cache restarted with its data", lambda faults: faults.restart_cache(keep_data=True), 1),
    ("broker restarted with its data", lambda faults: faults.restart_broker(keep_data=True), 1),
    ("broker killed, restarted empty", lambda faults: faults.restart_broker(keep_data=False), 1),
)


#: Their names.
KINDS: Final = frozenset(name for name, _, _ in _TABLE)


def shifted_clock(shift_s: int) -> dict[str, str] | None:
    """Return the environment that shifts a process's wall clock; None if the package `faketime` is not installed."""
    if shutil.which("faketime") is None:
        return None
    # Asked where its library lies; the rest of what it sets is shared memory of its own, which ends with it.
    command = ["faketime", "-m", "-f", "+0s", "printenv", "LD_PRELOAD"]
    library = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return {
        "LD_PRELOAD": library,
        "FAKETIME": f"{shift_s:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (_HERE / "shifted", _HERE.parents[1], _HERE.parent))),
    }


def _pids(worker: Worker) -> tuple[int, ...]:
    return (worker.pid, *(child.pid for child in worker.children()))


def _info(client: redis.Redis, name: str) -> int:
    facts: dict[str, Any] = client.info()  # type: ignore[assignment]
    return int(facts[name])


def _inputs_in(client: redis.Redis, namespace: str) -> Iterator[int]:
    """Yield the numbers of the inputs whose messages the broker holds, queued or not acked."""
    noted: list[bytes] = client.hvals("unacked")  # type: ignore[assignment]
    messages = [json.loads(each)[0] for each in noted]
    for queue in client.scan_iter(f"{namespace}.stamped@*", _type="list"):
        queued: list[bytes] = client.lrange(queue, 0, -1)  # type: ignore[assignment]
        messages += map(json.loads, queued)
    for message in messages:
        arguments, _, _ = msgpack.unpackb(base64.b64decode(message["body"]))
        for _, _, _, _, text, _ in arguments[4]:
            yield json.loads(text)["number"]
