"""What is measured: of each server by what it says of itself, of each process by what the system says of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import psutil
import redis

from foreseen.embedded import EmbeddedServer

__all__ = ["TOLERANCES", "Series", "Soaked", "sample"]

_MIB: Final = 2.0**20
#: By unit: a rise that is none, as a share of the level and at least so much. Allocators keep what they once took, in
#: pieces of a megabyte or so; counts are whole.
TOLERANCES: Final[Mapping[str, tuple[float, float]]] = {
    "MiB": (0.02, 1.0),
    "connections": (0.0, 0.5),
    "keys": (0.05, 20.0),
    "keys without expiry": (0.0, 0.5),
    "threads": (0.0, 0.5),
    "descriptors": (0.0, 0.5),
}


@dataclass(frozen=True)
class Series:
    """What is measured of something: `what` names it, `unit` says what is counted."""

    what: str
    unit: str


@dataclass(frozen=True)
class Soaked:
    """What is under load: servers and processes by name."""

    servers: Mapping[str, EmbeddedServer]
    processes: Mapping[str, psutil.Process]


def sample(soaked: Soaked) -> tuple[float, dict[Series, float]]:
    """Measure everything once; return when (monotonic seconds), and what was seen."""
    seen: dict[Series, float] = {}
    for name, server in soaked.servers.items():
        with redis.Redis.from_url(server.url(0)) as client:
            facts: dict[str, Any] = client.info()  # type: ignore[assignment]
        seen[Series(name, "connections")] = facts["connected_clients"] - 1  # this one
        databases = [value for key, value in facts.items() if key.startswith("db")]
        seen[Series(name, "keys")] = sum(each["keys"] for each in databases)
        if name == "cache":
            seen[Series(name, "keys without expiry")] = sum(each["keys"] - each["expires"] for each in databases)
        seen[Series(name, "MiB")] = psutil.Process(server.pid).memory_info().rss / _MIB
    for name, process in soaked.processes.items():
        with process.oneshot():
            seen[Series(name, "MiB")] = process.memory_info().rss / _MIB
            seen[Series(name, "threads")] = process.num_threads()
            seen[Series(name, "descriptors")] = process.num_fds()
    return time.monotonic(), seen
