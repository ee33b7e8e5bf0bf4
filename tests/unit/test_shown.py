"""What pages show of commands whose occasion is rare is what these commands draw of it."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
from rich.console import Console

from foreseen.canonical import canonicalize
from foreseen.cli import dead as dead_module
from foreseen.cli.snapshot import Snapshot
from foreseen.cli.stats import _COLUMNS, _drawn
from foreseen.dead_letters import DeadLetter
from foreseen.errors import TooManyAttempts
from foreseen.keys import Key
from foreseen.statistics import Counts, ServerMemory
from producer import NearCache, Outages

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
_UNITS_S: Final = {"s": 1, "min": 60, "h": 3600}
_MEMORY: Final = ServerMemory(used_bytes=2_411_725, max_bytes=0, policy="noeviction", evicted=0)


def fence_with(page: str, text: str) -> list[str]:
    """Return the lines of the page's block that has a text in it."""
    fences = re.findall(r"^```\w*\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = [fence.splitlines() for fence in fences if text in fence]
    return found


def on_paper(renderable: Any, width: int) -> list[str]:
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return [line.rstrip() for line in capture.get().splitlines()]


def counts_in(cells: list[list[str]], **told: int) -> Counts:
    """Return the counts that a page's two rows show."""
    names = [name for columns in _COLUMNS for name in columns]
    values = dict(zip(names, [cell for row in cells for cell in row], strict=True))
    values.pop("waiting")
    times = {f"{name}_us": values.pop(name) for name in ("spent", "saved")}
    microseconds = {name: _microseconds(cell) for name, cell in times.items()}
    return Counts(**{name: int(cell.replace(",", "")) for name, cell in values.items()}, **microseconds, **told)


def _microseconds(cell: str) -> int:
    number, unit = cell.split()
    return round(float(number) * _UNITS_S[unit] * 1e6)


@pytest.mark.parametrize(
    ("page", "model_id", "told"),
    [
        ("policies.md", "sentiment@1", {}),
        ("security.md", "slow@1", {"rejected": 1002}),
    ],
)
def test_statistics(page: str, model_id: str, told: dict[str, int]) -> None:
    shown = fence_with(page, "foreseen stats")
    at = next(number for number, line in enumerate(shown) if line.startswith(model_id))
    cells = [re.split(r" {2,}", line.strip()) for line in shown[at + 1 : at + 3]]
    hottest = {match[1]: int(match[2]) for line in shown if (match := re.search(r":(\w{8})  about (\d+) hits", line))}
    waiting = int(cells[1][-1])
    counts = counts_in(cells, **told)
    snapshot = Snapshot(0.0, {model_id: counts}, {model_id: waiting}, _MEMORY, {model_id: hottest}, None)
    drawn = on_paper(_drawn(snapshot, None), 200)
    missing = [line for line in shown if line not in drawn and not line.startswith("$ ") and line.strip() != "..."]
    assert missing == [], "\n".join(drawn)


def test_audits_in_the_statistics() -> None:
    (line,) = fence_with("trust.md", "hits audited")
    model_id = line.partition(": ")[0]
    counts = Counts(hit=2000, opened=2000, computed=2000, audited=2000)
    snapshot = Snapshot(0.0, {model_id: counts}, {model_id: 0}, _MEMORY, {}, None)
    assert line in on_paper(_drawn(snapshot, None), 200)


def test_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = fence_with("your-model.md", "foreseen dead list")
    row = next(line for line in shown if line.startswith(" fragile@1:"))
    submitted = next(line for line in shown if line.startswith("Submitted "))
    key = Key.parse(submitted.removeprefix("Submitted "))
    at_ms = round(datetime.fromisoformat(row.split()[1]).timestamp() * 1000)
    why = {"deaths": 3, "last": "up-12662@vm: Worker exited prematurely: signal 11 (SIGSEGV)"}
    letter = DeadLetter(key, TooManyAttempts("", why), at_ms, canonicalize("anything"))
    drawn: list[Any] = []
    monkeypatch.setattr(dead_module, "draw", drawn.append)
    dead_module._draw([letter])
    table = shown[1 : shown.index("")]
    assert [line for line in on_paper(drawn[0], len(table[1]) + 1) if line] == table


@pytest.mark.parametrize(("page", "kind"), [("near-cache.md", NearCache), ("cache-trouble.md", Outages)])
def test_what_a_producer_has_counted(page: str, kind: type) -> None:
    (shown,) = re.findall(rf"\b({kind.__name__}\(\w+=.*?\))", (DOCS / page).read_text(encoding="utf-8"))
    assert repr(eval(shown, {kind.__name__: kind})) == shown  # noqa: S307 - the page's own text
