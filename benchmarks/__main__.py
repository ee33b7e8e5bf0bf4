"""`make bench`: run the measures, tell how far they are, print the table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.harness import Comparison, Tell
from benchmarks.hit import many_hits, near_hit, single_hit
from benchmarks.miss import single_miss
from benchmarks.processor import processor_time
from benchmarks.publish import publish
from benchmarks.report import show, write
from benchmarks.round_trips import Commands, round_trips
from benchmarks.stage import Stage, stage
from foreseen.cli.interrupt import interruptible

__all__: list[str] = []

#: In this order: the last two end the workers.
_MEASURES: dict[str, Callable[[Stage, Tell], Comparison | list[Commands]]] = {
    "hit": single_hit,
    "near": near_hit,
    "many": many_hits,
    "miss": single_miss,
    "processor": processor_time,
    "publish": publish,
    "round-trips": round_trips,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure foreseen beside bare Celery and raw Redis, on a server of its own; about a minute. "
        "Times are ratios to a baseline of the same second, since absolute ones mean little on a shared machine.",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too, times in seconds")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is not met")
    parser.add_argument("--only", action="append", choices=_MEASURES, help="run this measure alone; may be repeated")
    return parser.parse_args()


def _run(names: list[str]) -> tuple[list[Comparison], list[Commands]]:
    comparisons: list[Comparison] = []
    commands: list[Commands] = []
    columns = (TextColumn("{task.description:<12}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        starting = progress.add_task("starting", total=None)
        with stage() as on:
            progress.update(starting, total=1, completed=1)
            for name in names:
                task = progress.add_task(name, total=None)
                measured = _MEASURES[name](
                    on, lambda done, total, task=task: progress.update(task, total=total, completed=done)
                )
                if isinstance(measured, Comparison):
                    comparisons.append(measured)
                else:
                    commands = measured
    return comparisons, commands


def _main() -> int:
    arguments = _arguments()
    with interruptible():
        comparisons, commands = _run([name for name in _MEASURES if not arguments.only or name in arguments.only])
    show(Console(width=None if sys.stdout.isatty() else 160), comparisons, commands)
    if arguments.json:
        write(arguments.json, comparisons, commands)
    return int(arguments.check and any(one.met is False for one in comparisons))


if __name__ == "__main__":
    sys.exit(_main())
