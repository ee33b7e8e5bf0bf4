"""What a run found, as JSON, so that the page can be made anew from it."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.scale.checks import Check
from benchmarks.scale.scenarios import Told
from foreseen.capacity import Costs

__all__ = ["Record"]


def _here() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": sys.version.split()[0],
    }


@dataclass(slots=True)
class Record:
    """What was measured and simulated."""

    costs: Costs
    checks: list[Check]
    law: list[Told]
    days: list[Told]
    losses: list[Told]
    growth: list[Told]
    ran_on: dict[str, Any] = field(default_factory=_here)

    def write(self, path: Path) -> None:
        """Write it to a file."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read what `write` wrote."""
        found = json.loads(path.read_text(encoding="utf-8"))
        told = {name: [Told(**each) for each in found[name]] for name in ("law", "days", "losses", "growth")}
        return cls(Costs(**found["costs"]), [Check(**each) for each in found["checks"]], **told, ran_on=found["ran_on"])
