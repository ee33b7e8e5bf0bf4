from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from workers import request


class TestCopiesThatAreHeld:
    """The sender's clock and the receiver's may differ by more than any lease."""

    @pytest.fixture
    def taken(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        taken: list[Any] = []
        monkeypatch.setattr(request, "default_strategy", lambda *_, **__: taken.append)
        return taken

    @staticmethod
    def _deliver(**headers: Any) -> None:
        message = SimpleNamespace(payload=[[], {}, {}], headers={"id": "1", "eta": None, **headers})
        request.strategy(None, None, None)(message)

    @pytest.mark.parametrize("shift_s", [90, 0, -90])
    def test_are_held_by_the_receiver_s_clock(self, taken: list[Any], shift_s: float) -> None:
        before = datetime.now(UTC)
        self._deliver(due_s=5.0, eta=(before + timedelta(seconds=5 + shift_s)).isoformat())
        (message,) = taken
        held = datetime.fromisoformat(message.headers["eta"]) - before
        assert timedelta(seconds=5) <= held < timedelta(seconds=15)

    def test_everything_else_begins_at_once(self, taken: list[Any]) -> None:
        self._deliver()
        self._deliver(due_s=0)
        assert [message.headers["eta"] for message in taken] == [None, None]

    @pytest.mark.parametrize("due_s", ["5", -1, 1e300, float("nan"), [5]])
    def test_what_is_no_duration_holds_up_nothing(self, taken: list[Any], due_s: object) -> None:
        self._deliver(due_s=due_s)
        assert taken[0].headers["eta"] is None
