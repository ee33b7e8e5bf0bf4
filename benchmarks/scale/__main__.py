"""`make scale`: what each step costs, whether that adds up, and what a large deployment does; about seven minutes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.page import DOCS
from benchmarks.scale.calibration import calibrated
from benchmarks.scale.checks import checked
from benchmarks.scale.page import RECORD, renew, tables
from benchmarks.scale.record import Record
from benchmarks.scale.scenarios import days, growth, law, losses
from foreseen.cli.interrupt import Interrupted, interruptible

__all__: list[str] = []


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="only show that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    parser.add_argument("--docs", action="store_true", help="renew docs/scaling.md and its JSON")
    options = parser.parse_args()
    try:
        with interruptible():
            record = _run(smoke=options.smoke)
    except Interrupted as interrupted:
        return interrupted.status
    print("\n\n".join(tables(record).values()))
    if options.json is not None:
        record.write(options.json)
    if options.docs:
        record.write(DOCS / RECORD)
        renew(record, DOCS)
    return 0


def _run(*, smoke: bool) -> Record:
    costs = calibrated(1 if smoke else 5, _tell)
    return Record(
        costs,
        checked(costs, 1.0 if smoke else 15.0, _tell),
        law(_tell, smoke=smoke),
        days(_tell, smoke=smoke),
        losses(_tell, smoke=smoke),
        growth(_tell, smoke=smoke),
    )


def _tell(what: str) -> None:
    print(f"  {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(_main())
