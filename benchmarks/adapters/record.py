"""What a run found, as JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

__all__ = ["Measured", "Record"]


def _measured_on() -> str:
    frameworks = ("numpy", "onnxruntime", "scikit-learn", "torch", "transformers")
    versions = ", ".join(f"{name} {version(name)}" for name in frameworks)
    return (
        f"Measured on {os.cpu_count()} cores ({platform.system()} {platform.machine()}, load {os.getloadavg()[0]:.1f} "
        f"when it began), Python {platform.python_version()}, {versions}."
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """An adapter's example.

    Attributes:
        adapter: its framework.
        example: the model's file.
        batch: what `foreseen check` saw of a full batch beside its inputs alone.
        suggested: the batch size that it suggests.
        costs: batch sizes, and seconds an item.
    """

    adapter: str
    example: str
    batch: str
    suggested: int
    costs: list[tuple[int, float]]


@dataclass(slots=True)
class Record:
    """A run."""

    measured_on: str = field(default_factory=_measured_on)
    models: list[Measured] = field(default_factory=list[Measured])

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(file: Path) -> Record:
        """Read what `write` wrote."""
        told = json.loads(file.read_text(encoding="utf-8"))
        models = [Measured(**{**one, "costs": [tuple(cost) for cost in one["costs"]]}) for one in told["models"]]
        return Record(told["measured_on"], models)
