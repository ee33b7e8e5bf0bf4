"""`make policies`: what cache policies and eviction come to; about seven minutes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.harness import Size
from benchmarks.page import DOCS
from benchmarks.policies.boundary import Load, boundaries
from benchmarks.policies.eviction import Trace, evictions
from benchmarks.policies.hot_key import hot_keys
from benchmarks.policies.page import RECORD, good, renew, tables
from benchmarks.policies.record import Record
from benchmarks.stage import stage
from foreseen.cli.interrupt import Interrupted, interruptible

__all__: list[str] = []

#: So short that it only shows that everything runs.
_SMOKE_TRACE = Trace(inputs=500, per_s=500, fill_s=1.0, seconds=1.0, expiry_s=5.0)
_SMOKE_LOAD = Load(inputs=20, per_s=100, seconds=1.5)


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policies", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="only show that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    parser.add_argument("--docs", action="store_true", help="renew docs/policies.md, its JSON and its pictures")
    parser.add_argument("--check", action="store_true", help="end with 1 if a request waits where none should")
    options = parser.parse_args()
    record = Record()
    try:
        with interruptible():
            _run(record, smoke=options.smoke)
    except Interrupted as interrupted:
        return interrupted.status
    print("\n\n".join(tables(record).values()))
    if options.json is not None:
        record.write(options.json)
    if options.docs:
        record.write(DOCS / RECORD)
        renew(record, DOCS)
    return 1 if options.check and not good(record) else 0


def _run(record: Record, *, smoke: bool) -> None:
    with stage(Size.SMOKE if smoke else Size.FULL) as on:
        record.hot_keys += hot_keys(on, 1 if smoke else 3, _tell)
    record.boundaries += boundaries(_SMOKE_LOAD if smoke else Load(), _tell)
    record.evictions += evictions(_SMOKE_TRACE if smoke else Trace(), _tell)


def _tell(what: str) -> None:
    print(f"  {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(_main())
