"""What is renewed, and in how many round trips."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from foreseen.canonical import canonicalize
from foreseen.flights import Call
from foreseen.holding import HolderFlights
from foreseen.keys import key_of
from foreseen.settings import Settings
from workers.leases import Holding, Leases

DEADLINE_S = 20.0


class Scene:
    def __init__(self) -> None:
        self.trips: queue.Queue[Sequence[Call[Any]]] = queue.Queue()
        self.flights = HolderFlights(Settings(namespace="t", lease_s=0.5))
        cache: Any = SimpleNamespace(run=self.trips.put)
        self.leases = Leases(self.flights, cache)

    def holding(self, holder: str, *values: int) -> Holding:
        return Holding(holder, [key_of("model", "1", canonicalize(value)) for value in values])


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.leases.stop()


def test_all_that_is_held_is_renewed_in_one_round_trip(scene: Scene) -> None:
    for holding in (scene.holding("h1", 1), scene.holding("h2", 2, 3), scene.holding("h3", 4)):
        scene.leases.add(holding)
    scene.leases.start()
    for _ in range(2):
        calls = scene.trips.get(timeout=DEADLINE_S)
        assert [call.script.name for call in calls] == ["renew"] * 4
        assert [call.args[0] for call in calls] == ["h1", "h2", "h2", "h3"]
        assert len({call.keys for call in calls}) == 4


def test_what_is_let_go_is_renewed_no_more(scene: Scene) -> None:
    scene.leases.add(scene.holding("h1", 1))
    scene.leases.add(scene.holding("h2", 2))
    scene.leases.remove("h1")
    scene.leases.start()
    assert [call.args[0] for call in scene.trips.get(timeout=DEADLINE_S)] == ["h2"]
