"""docs/performance.md and its pictures, from a run; `python -m benchmarks.page` makes them anew from its JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.picture import draw
from benchmarks.record import Record
from benchmarks.report import markdown

__all__ = ["DOCS", "RECORD", "renew"]

DOCS: Final = Path(__file__).parents[1] / "docs"
RECORD: Final = "performance.json"
_BEGIN: Final = "<!-- made by `make bench-full` from here -->"
_END: Final = "<!-- to here -->"


def renew(record: Record, docs: Path) -> None:
    """Put the record's table between the marks of the page, and draw its pictures.

    Args:
        record: of a run of all measures.
        docs: where performance.md is, and the pictures go.
    """
    page = docs / "performance.md"
    before, begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"{page}: the two lines are missing between which the table goes:\n{_BEGIN}\n{_END}")
    page.write_text(f"{before}{begin}\n\n{markdown(record)}\n\n{end}{after}", encoding="utf-8")
    draw(record, docs)


if __name__ == "__main__":
    renew(Record.read(DOCS / RECORD), DOCS)
