"""What a worker does with an audit, over a cache that says what the test laid out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from foreseen.canonical import canonicalize
from foreseen.compression import deflate
from foreseen.entry import COMPRESSED_CODEC, Entry, Kind
from foreseen.errors import CacheUnavailable, TimeLimitExceeded
from foreseen.flights import Call
from foreseen.holding import HolderFlights
from foreseen.keys import BUCKETS, key_of
from foreseen.measures import Measures
from foreseen.message import AUDIT, Item, Message
from foreseen.payload import pack
from foreseen.settings import Settings
from workers.engine import Engine, Report
from workers.model import Model
from workers.policies import Batching, CachePolicy

SETTINGS = Settings(namespace="t")


class Adds(Model[int, Any]):
    name = "model"
    version = "1"
    batching = Batching(max_batch_size=8)

    def __init__(self) -> None:
        self.computed: list[int] = []
        self.answer: Callable[[int], Any] = lambda one: {"sum": one + 1}

    def predict(self, batch: Sequence[int]) -> list[Any]:
        self.computed += batch
        return [self.answer(one) for one in batch]


class Tolerant(Adds):
    cache = CachePolicy(audit_tolerance=0.01)


class Unaudited(Adds):
    cache = CachePolicy(audit_tolerance=None)


class Scene:
    """A worker's runtime whose cache holds entries, and keeps what it was told."""

    def __init__(self, model: Adds) -> None:
        self.model = model
        self.entries: dict[str, bytes] = {}
        self.told: list[tuple[Any, ...]] = []
        self.is_away = False
        self.flights = HolderFlights(SETTINGS)
        self.runtime: Any = SimpleNamespace(
            settings=SETTINGS, home=SimpleNamespace(channel=""), isolation=SimpleNamespace(in_company=nullcontext),
            shares_calls=False,
            leases=None, flights=self.flights, models={"model@1": type(model)}, model=lambda _: model,
            cache=SimpleNamespace(run=self.run, commands=self.commands), publisher=None,
            measures=Measures(), spans=None,
        )  # fmt: skip

    def run(self, calls: Sequence[Call[Any]]) -> list[Any]:
        if self.is_away:
            raise CacheUnavailable("away")
        assert {call.script.name for call in calls} == {"peek"}, "an audit begins and finishes nothing"
        return [self.entries.get(call.keys[1]) for call in calls]

    def commands(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        if self.is_away:
            raise CacheUnavailable("away")
        self.told += commands
        return [1] * len(commands)

    def keep(self, one: int, value: Any, kind: Kind = Kind.RESULT, order: int = 7) -> None:
        """Give an input an entry."""
        data = Entry(kind, b"generatn", order, 0, 0, 0, pack(value)).encode()
        self.entries[self.flights.space.entry(key(one))] = data

    def handle(self, *inputs: int, came_back: bool = False) -> Report:
        items = tuple(Item(key(one), "0" * 16, 0, 0, canonicalize(one)) for one in inputs)
        return Engine(self.runtime).handle(
            Message("model@1", items, 0, 0, reply_to=AUDIT), "holder", came_back=came_back
        )

    @property
    def counts(self) -> dict[str, int]:
        key_ = self.flights.space.statistics_of("model@1", BUCKETS[0])
        assert {command[1] for command in self.told} <= {key_}
        return {command[2]: command[3] for command in self.told if command[0] == "HINCRBY"}


def key(one: int) -> Any:
    return key_of("model", "1", canonicalize(one))


@pytest.fixture
def scene() -> Scene:
    return Scene(Adds())


def test_what_is_as_it_was_is_counted(scene: Scene) -> None:
    scene.keep(1, {"sum": 2})
    scene.keep(2, {"sum": 3})
    assert scene.handle(1, 2) == Report(computed=2)
    assert scene.counts == {"audited": 2, "differed": 0}


def test_a_compressed_entry_is_compared_by_what_it_holds(scene: Scene) -> None:
    same, other = ["x" * 9000], ["y" * 9000]
    scene.model.answer = lambda _: same
    for one, value in ((1, same), (2, other)):
        compressed = deflate(pack(value))
        assert compressed is not None
        data = Entry(Kind.RESULT, b"generatn", 7, 0, 0, 0, compressed, None, COMPRESSED_CODEC).encode()
        scene.entries[scene.flights.space.entry(key(one))] = data
    scene.handle(1, 2)
    assert scene.counts == {"audited": 2, "differed": 1}


def test_what_differs_is_counted_and_logged_by_its_short_key(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.keep(1, {"sum": "a secret"})
    scene.keep(2, {"sum": 3})
    scene.handle(1, 2)
    assert scene.counts == {"audited": 2, "differed": 1}
    assert key(1).short in caplog.text
    assert "secret" not in caplog.text


def test_a_model_s_tolerance_is_for_its_floats(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(Tolerant())
    scene.keep(1, [0.5, 1])
    scene.model.answer = lambda _: [0.509, 1]
    scene.handle(1)
    assert scene.counts == {"audited": 1, "differed": 0}
    for answer in ([0.511, 1], [0.5, 2]):
        scene.told.clear()
        scene.model.answer = lambda _, answer=answer: answer  # type: ignore[misc]
        scene.handle(1)
        assert scene.counts == {"audited": 1, "differed": 1}
    assert "its numbers by up to 0.011" in caplog.text


def test_what_has_no_result_to_compare_with_is_not_computed(scene: Scene) -> None:
    scene.keep(2, {"name": "ModelFailed", "message": "", "details": {}}, Kind.FAILURE)
    scene.entries[scene.flights.space.entry(key(3))] = b"\x01torn"
    assert scene.handle(1, 2, 3) == Report(settled=3)
    assert (scene.model.computed, scene.told) == ([], [])


@pytest.mark.parametrize("order", [8, None])
def test_an_entry_that_changed_meanwhile_is_not_compared(scene: Scene, order: int | None) -> None:
    def answer(one: int) -> str:
        scene.entries.clear()
        if order is not None:
            scene.keep(one, "another", order=order)
        return "noise"

    scene.keep(1, {"sum": 2})
    scene.model.answer = answer
    scene.handle(1)
    assert (scene.model.computed, scene.told) == ([1], [])


def test_a_failure_says_nothing_of_the_entry_and_is_tried_once(scene: Scene) -> None:
    scene.keep(1, {"sum": 2})
    for failure in (ConnectionError("away"), TimeLimitExceeded("late"), ValueError("broken")):
        scene.model.computed.clear()
        scene.model.answer = lambda _, failure=failure: failure  # type: ignore[misc]
        assert scene.handle(1) == Report(failed=1)
        assert (scene.model.computed, scene.told) == ([1], [])


def test_an_audit_that_comes_back_may_have_cost_a_process_and_is_dropped(scene: Scene) -> None:
    scene.keep(1, {"sum": 2})
    assert scene.handle(1, came_back=True) == Report(settled=1)
    assert (scene.model.computed, scene.told) == ([], [])


def test_a_model_that_differs_by_nature_is_not_audited() -> None:
    scene = Scene(Unaudited())
    scene.keep(1, {"sum": 2})
    assert scene.handle(1) == Report(settled=1)
    assert scene.model.computed == []


def test_while_the_cache_is_away_nothing_is_audited(scene: Scene) -> None:
    scene.is_away = True
    assert scene.handle(1) == Report(settled=1)
    scene.is_away = False
    scene.keep(1, {"sum": 2})

    def answer(one: int) -> dict[str, int]:
        scene.is_away = True
        return {"sum": one + 1}

    scene.model.answer = answer
    assert scene.handle(1) == Report(computed=1)
    assert scene.told == []


def test_a_revoked_audit_is_told_to_nobody(scene: Scene) -> None:
    scene.keep(1, {"sum": 2})
    item = Item(key(1), "0" * 16, 0, 0, canonicalize(1))
    Engine(scene.runtime).revoke(Message("model@1", (item,), 0, 0, reply_to=AUDIT), "holder")
    assert scene.told == []
