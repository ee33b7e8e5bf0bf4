"""`make bench`: run the measures, tell how far they are, print the table."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks.bound import TookTooLong, bounded
from benchmarks.callers import concurrent_hits, concurrent_misses
from benchmarks.entries import crowded_hit, entry_bytes
from benchmarks.harness import Comparison, Size, Skipped, Tell
from benchmarks.hit import many_hits, near_hit, shown_hit, single_hit
from benchmarks.imports import import_time
from benchmarks.miss import many_misses, single_miss
from benchmarks.page import DOCS, RECORD, renew
from benchmarks.processor import processor_time
from benchmarks.publish import publish
from benchmarks.record import Found, Record
from benchmarks.report import line, show
from benchmarks.round_trips import round_trips
from benchmarks.scaling import scaling
from benchmarks.stage import Stage, stage
from benchmarks.tags import invalidated_tag
from benchmarks.zipf import zipf
from foreseen.cli.interrupt import Interrupted, interruptible

__all__: list[str] = []

#: In this order, which is the table's, and in which few workers have to start and end.
_MEASURES: Final[dict[str, Callable[[Stage, Tell], Sequence[Found]]]] = {
    "hit": single_hit,
    "near": near_hit,
    "shown": shown_hit,
    "many-hits": many_hits,
    "concurrent-hits": concurrent_hits,
    "bytes": entry_bytes,
    "miss": single_miss,
    "processor": processor_time,
    "many-misses": many_misses,
    "concurrent-misses": concurrent_misses,
    "round-trips": round_trips,
    "publish": publish,
    "zipf": zipf,
    "scaling": scaling,
    "crowded": crowded_hit,
    "tags": invalidated_tag,
    "import": import_time,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure foreseen beside bare Celery and raw Redis, on a server of its own. "
        "Times are ratios to a baseline of the same second, since absolute ones mean little on a shared machine.",
    )
    parser.add_argument(
        "--size", type=Size, choices=Size, default=Size.SHORT, metavar="SIZE",
        help="smoke (does it run), short (a few minutes, the default) or full (a quarter of an hour)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too, times in seconds")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is not met or a measure fails")
    parser.add_argument(
        "--docs", action="store_true", help="renew docs/performance.md, its pictures and docs/performance.json"
    )
    parser.add_argument("--only", action="append", choices=_MEASURES, help="run this measure alone; may be repeated")
    arguments = parser.parse_args()
    if arguments.docs and arguments.only:
        parser.error("--docs wants all measures, so not with --only")
    return arguments


def _run(record: Record, names: Sequence[str]) -> None:
    """Run measures; one that fails is noted, and the others go on."""
    columns = (TextColumn("{task.description:<18}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress, stage(record.size) as on:
        for name in names:
            task = progress.add_task(name, total=None)

            def tell(done: int, total: int, task: TaskID = task) -> None:
                progress.update(task, total=total, completed=done)

            try:
                with bounded(record.size.bound_s):
                    found = _MEASURES[name](on, tell)
            except Skipped as reason:
                record.skipped[name] = str(reason)
                progress.console.print(f"{name} was skipped: {reason}", highlight=False)
            except (Exception, TookTooLong) as error:  # noqa: BLE001 - whatever it was, the others can go on
                record.failed[name] = _told(error)
                progress.console.print(f"{name} failed: {record.failed[name]}", highlight=False, markup=False)
                on.have()  # what runs may be what failed: the next starts its own
            else:
                record.add(found)
                for one in found:
                    if isinstance(one, Comparison):
                        progress.console.print(line(one), highlight=False)
            progress.update(task, total=1, completed=1)


def _told(error: BaseException) -> str:
    """Return what it was and where: an answer that is wrong fails an `assert`, which says nothing by itself."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno}: {where.line})"


def _main() -> int:
    arguments = _arguments()
    record, status = Record(arguments.size), 0
    try:
        with interruptible():
            _run(record, [name for name in _MEASURES if not arguments.only or name in arguments.only])
    except Interrupted as interrupted:
        status = interrupted.status
    show(Console(width=None if sys.stdout.isatty() else 180), record)
    if arguments.json:
        record.write(arguments.json)
    if arguments.docs and not status:
        record.write(DOCS / RECORD)
        renew(record, DOCS)
    return status or int(arguments.check and not record.good)


if __name__ == "__main__":
    sys.exit(_main())
