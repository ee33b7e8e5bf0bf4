"""Hosts whose clocks disagree: how long an entry stands, and what came first, is for the server's clock to say."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foreseen.flights import Hit

if TYPE_CHECKING:
    from conftest import Steps

ROOT = Path(__file__).resolve().parents[2]
#: Where the host's own clock is read, and never for an entry: what is computed without the cache, when a dead letter
#: was written, when a message was taken from the broker, as kombu notes it, until when a copy is held, and how far off
#: the time is that somebody has given to one of Celery's calls. Events and spans are told by it, as others tell theirs.
READ_IN = {
    "foreseen/client/direct.py",
    "foreseen/client/events.py",
    "foreseen/unacked.py",
    "producer/celery.py",
    "workers/arrival.py",
    "workers/direct.py",
    "workers/outcomes.py",
    "workers/spans.py",
}
_WALL = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(now|utcnow|today)\(|\bdate\.today\(")


@pytest.mark.parametrize("shift_s", [-86_400, 86_400])
def test_a_host_whose_clock_is_a_day_off_writes_and_reads_entries_as_any_other(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, shift_s: int
) -> None:
    shifted = time.time() + shift_s
    monkeypatch.setattr(time, "time", lambda: shifted)
    before = steps.now_ms()
    entry = steps.compute()
    assert before <= entry.written_ms <= steps.now_ms()
    assert entry.written_ms < entry.fresh_until_ms
    assert isinstance(steps.join("a"), Hit)


def test_no_step_of_the_protocol_reads_a_hosts_clock() -> None:
    found = {
        str(path.relative_to(ROOT))
        for room in ("foreseen", "producer", "workers")
        for path in (ROOT / room).rglob("*.py")
        if "cli" not in path.parts and "checks" not in path.parts and _WALL.search(path.read_text(encoding="utf-8"))
    }
    assert found == READ_IN
