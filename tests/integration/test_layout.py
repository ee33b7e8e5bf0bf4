"""A release leaves alone what another computes whose layout it does not speak."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from foreseen.errors import UnsupportedLayout
from foreseen.flights import Kind

if TYPE_CHECKING:
    from conftest import Steps


CALLS: dict[str, Callable[[Steps, Any], Any]] = {
    "join": lambda steps, _: steps.join("b"),
    "look": lambda steps, joined: steps.look(joined.token),
    "begin": lambda steps, joined: steps.begin(joined, "h2"),
    "leave": lambda steps, _: steps.leave("a", 10**9),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_flight_of_another_layout_is_refused(steps: Steps, name: str) -> None:
    joined = steps.joined("a", Kind.WAITER)
    steps.write(layout=2)
    before = steps.flight()
    with pytest.raises(UnsupportedLayout, match="LAYOUT 2"):
        CALLS[name](steps, joined)
    assert steps.flight() == before


def test_a_finish_under_another_layout_keeps_nothing(steps: Steps) -> None:
    joined = steps.joined("a")
    begun = steps.begin(joined)
    steps.write(layout=2)
    with pytest.raises(UnsupportedLayout):
        steps.finish(begun)
    assert steps.entry() is None
