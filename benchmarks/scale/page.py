"""docs/scaling.md, from a run; `python -m benchmarks.scale.page` makes its tables anew from its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.page import DOCS
from benchmarks.scale.checks import Check
from benchmarks.scale.record import Record
from benchmarks.scale.scenarios import Told

__all__ = ["RECORD", "renew", "tables"]

RECORD: Final = "scaling.json"
_BEGIN: Final = "<!-- {} made by `make scale` from here -->"
_END: Final = "<!-- {} to here -->"


def renew(record: Record, docs: Path) -> None:
    """Put the record's tables between their marks on the page."""
    page = docs / "scaling.md"
    text = page.read_text(encoding="utf-8")
    for name, table in tables(record).items():
        before, begin, rest = text.partition(_BEGIN.format(name))
        _, end, after = rest.partition(_END.format(name))
        if not begin or not end:
            raise SystemExit(f"{page}: the two lines are missing between which the table {name!r} goes")
        text = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    page.write_text(text, encoding="utf-8")


def tables(record: Record) -> dict[str, str]:
    """Return the tables by name, in Markdown."""
    here = record.ran_on
    where = f"{here['cores']} cores ({here['system']}, load {here['load']} at the end)"
    return {
        "machine": f"Measured on {where}, Python {here['python']}.",
        "costs": _costs(record),
        "checks": _checks(record.checks),
        "law": _table("slice", record.law, with_when=False),
        "days": _table("room", record.days),
        "losses": _table("lost at noon", record.losses),
        "growth": _table("requests", record.growth, with_when=False),
    }


def _costs(record: Record) -> str:
    rows = [f"| `{name}` | {value:,.1f} |" for name, value in asdict(record.costs).items()]
    return "\n".join(["| step | µs of a core |", "| --- | ---: |", *rows])


def _checks(checks: Sequence[Check]) -> str:
    names = ("producers", "cache", "broker", "workers")
    rows = [
        f"| {one.per_s:,.0f} | {one.hit_rate:.0%} | {one.items_per_message:.1f} | "
        + " | ".join(f"{one.said[name]:.3f}, {one.measured[name]:.3f}" for name in names)
        + f" | {sum(one.said[name] for name in names) / sum(one.measured[name] for name in names):.2f} |"
        for one in checks
    ]
    head = "| requests/s | hits | items a message | producers | cache | broker | workers | said / measured, together |"
    return "\n".join([head, "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", *rows])


def _table(what: str, rows: Sequence[Told], *, with_when: bool = True) -> str:
    heads = [what, *(["when"] if with_when else []), "hits", "computed/s", "per batch", "busy", "wait p50", "p99",
             "entries", "evicted/s"]  # fmt: skip
    lines = [
        " | ".join([
            one.name, *([one.when] if with_when else []), f"{one.hit_rate:.1%}", f"{one.computed_per_s:,.0f}",
            f"{one.per_batch:.2f}", f"{one.busy:.0%}", f"{one.p50_s * 1000:,.0f} ms", f"{one.p99_s * 1000:,.0f} ms",
            f"{one.entries / 1e6:,.1f} M", f"{one.evicted_per_s:,.0f}",
        ])
        for one in rows
    ]  # fmt: skip
    rule = " | ".join(["---"] * (1 + with_when) + ["---:"] * (len(heads) - 1 - with_when))
    return "\n".join(f"| {line} |" for line in [" | ".join(heads), rule, *lines])


if __name__ == "__main__":
    renew(Record.read(DOCS / RECORD), DOCS)
