"""The table and the picture of docs/adapters.md; `python -m benchmarks.adapters.page` makes them anew from its JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.adapters.record import Record
from benchmarks.page import DOCS
from benchmarks.picture import COLOURS, plain, save, styled

__all__ = ["RECORD", "Record", "renew", "table"]

RECORD: Final = "adapters.json"
_PICTURE: Final = "adapters-throughput.svg"
_BEGIN: Final = "<!-- made by `make adapters` from here -->"
_END: Final = "<!-- to here -->"


def table(record: Record) -> str:
    """Return the table, and on what it was measured."""
    lines = [
        "| adapter | example | a full batch, beside its inputs alone | items a second, one by one | in batches of |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in record.models:
        rates = {size: 1 / item_s for size, item_s in one.costs}
        best = f"{one.suggested}: {rates[one.suggested]:,.0f}"
        lines.append(f"| {one.adapter} | `{one.example}` | {one.batch} | {rates[1]:,.0f} | {best} |")
    return "\n".join([*lines, "", record.measured_on])


def renew(record: Record, docs: Path) -> None:
    """Put the table between the marks of docs/adapters.md, and draw its picture."""
    page = docs / "adapters.md"
    before, begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"{page}: the two lines are missing between which the table goes:\n{_BEGIN}\n{_END}")
    page.write_text(f"{before}{begin}\n\n{table(record)}\n\n{end}{after}", encoding="utf-8")
    with styled():
        save(_throughput(record), docs / _PICTURE)


def _throughput(record: Record) -> Any:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.6), layout="constrained")
    for colour, one in zip(COLOURS, record.models, strict=False):
        sizes = [size for size, _ in one.costs]
        axes.plot(sizes, [1 / item_s for _, item_s in one.costs], "o-", color=colour, label=one.adapter, markersize=4)
        axes.plot(one.suggested, 1 / dict(one.costs)[one.suggested], "o", color=colour, markersize=9)
    ticks = sorted({size for one in record.models for size, _ in one.costs})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel("inputs in a call")
    axes.set_title("Items a second by batch size, on one core; large: what is suggested", loc="left", fontsize=10)
    figure.legend(loc="outside right center", frameon=False)
    plain(axes, "both")
    return figure


if __name__ == "__main__":
    renew(Record.read(DOCS / RECORD), DOCS)
