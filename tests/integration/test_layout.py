"""A release leaves alone what another computes whose layout it does not speak."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from foreseen.errors import UnsupportedLayout
from foreseen.flights import Kind
from foreseen.holding import Begin, Finish

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
    steps.write(layout=3)
    before = steps.flight()
    with pytest.raises(UnsupportedLayout, match="LAYOUT 3"):
        CALLS[name](steps, joined)
    assert steps.flight() == before


def test_a_finish_under_another_layout_keeps_nothing(steps: Steps) -> None:
    joined = steps.joined("a")
    begun = steps.begin(joined)
    steps.write(layout=3)
    with pytest.raises(UnsupportedLayout):
        steps.finish(begun)
    assert steps.entry() is None


#: What a flight of layout 1 holds that nobody has begun: there, every field is written.
FIRST = {
    "layout": "1", "opener": "0" * 16, "sender": "0" * 16, "replaced": "", "token": "0123456789abcdef",
    "state": "queued", "order": "0", "begun": "0", "holder": "", "lease": "0", "published": "0", "sent": "0",
    "probes": "0", "copy": "", "copies": "0", "deadline": "0", "priority": "4",
}  # fmt: skip


def test_a_flight_of_the_first_layout_is_computed_for_those_who_joined_it(steps: Steps) -> None:
    """As a release before this one has opened it."""
    opened = steps.joined("z")
    steps.leave("z", 10**9)
    steps.redis.hset(steps.space.flight(steps.key), mapping={**FIRST, "w:a": f"1:{steps.now_ms() + 60_000}"})
    generation = steps.redis.get(steps.space.generation(steps.key))
    steps.redis.hset(steps.space.flight(steps.key), "generation", generation)  # type: ignore[arg-type]
    steps.redis.pexpire(steps.space.flight(steps.key), 60_000)
    inbox = steps.inbox("a", "b")
    joined = steps.joined("b")
    assert joined.token == FIRST["token"] != opened.token
    begun = steps.begin(joined)
    assert begun.code is Begin.RUN
    assert steps.finish(begun).code is Finish.KEPT
    assert {push.inbox for push in inbox.pushes()} == {"a", "b"}


def test_a_flight_that_takes_the_place_of_another_says_nothing_that_the_other_said(steps: Steps) -> None:
    old = steps.joined("a")
    steps.run(steps.flights.published(steps.key, old.token))
    steps.begin(old, "h1", copies=3)
    steps.purge()
    new = steps.joined("b")
    flight = steps.flight()
    assert (flight["token"], flight["replaced"], flight["layout"]) == (new.token, old.token, "2")
    assert (flight["state"], flight["published"], flight["holder"], flight["copies"]) == ("queued", "0", "", "0")
