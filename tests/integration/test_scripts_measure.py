"""measure: what every process measured, added up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreseen import measures
from foreseen.flights import KEEP_MS
from foreseen.measures import ITEMS, Measured, Measures

if TYPE_CHECKING:
    from conftest import Steps

MODEL = "model@1"


def tell(steps: Steps, *items: float) -> None:
    measured = Measures()
    for each in items:
        measured.note(MODEL, ITEMS, each)
    for model_id, fields in measured.take().items():
        steps.run(steps.flights.measure(model_id, fields))


def told(steps: Steps) -> dict[object, Measured]:
    return dict(measures.parse(steps.cache.commands(measures.read(steps.space, MODEL))))


def test_measures_of_processes_add_up_and_expire(steps: Steps) -> None:
    tell(steps, 1, 2)
    tell(steps, 2)
    assert told(steps) == {(ITEMS, ""): Measured((1, 2, 0, 0, 0, 0, 0, 0, 0, 0), 5)}
    life_ms: int = steps.redis.pttl(steps.space.measures_of(MODEL))  # type: ignore[assignment]
    assert 0 < life_ms <= KEEP_MS


def test_another_type_in_its_place_stops_nothing(steps: Steps) -> None:
    steps.redis.set(steps.space.measures_of(MODEL), "somebody's", px=60_000)
    tell(steps, 1)
    steps.redis.delete(steps.space.measures_of(MODEL))
    tell(steps, 1)
    assert told(steps)[ITEMS, ""].total == 1


def test_a_message_s_begin_tells_how_long_ago_it_was_sent(steps: Steps) -> None:
    now_ms = steps.now_ms()
    assert 5_000 <= steps.run(steps.flights.raise_watermark("model@1", 4, now_ms - 5_000)) < 35_000
