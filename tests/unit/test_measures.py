from __future__ import annotations

from foreseen.keys import KeySpace
from foreseen.measures import ANSWER, HISTOGRAMS, ITEMS, Measures, parse, read

MODEL = "model@1"


def replies(measures: Measures) -> list[list[bytes]]:
    """Return what the cache says once it was told."""
    fields = measures.take().get(MODEL, {})
    return [[part for name, count in fields.items() for part in (name.encode(), str(count).encode())]]


def test_what_is_noted_falls_into_its_bucket_and_adds_up() -> None:
    measures = Measures()
    for value in (0.0005, 0.00051, 0.2, 0.2, 61.0):
        measures.note(MODEL, ANSWER, value, "hit")
    measures.note(MODEL, ANSWER, 0.2, "stale", 16)
    measures.note(MODEL, ITEMS, 3)
    measures.note(MODEL, ITEMS, 1000)
    measured = parse(replies(measures))
    hits = measured[ANSWER, "hit"]
    bounds = [*ANSWER.bounds, float("inf")]
    assert {bound: count for bound, count in zip(bounds, hits.counts, strict=True) if count} == {
        0.0005: 1, 0.001: 1, 0.25: 2, float("inf"): 1,
    }  # fmt: skip
    assert hits.total == 61.40101
    assert (sum(measured[ANSWER, "stale"].counts), measured[ANSWER, "stale"].total) == (16, 3.2)
    assert (measured[ITEMS, ""].counts, measured[ITEMS, ""].total) == ((0, 0, 1, 0, 0, 0, 0, 0, 0, 1), 1003)


def test_it_is_told_once() -> None:
    measures = Measures()
    measures.note(MODEL, ITEMS, 3)
    assert measures.take()
    assert measures.take() == {}


def test_fields_of_others_are_left_out() -> None:
    assert parse([[b"", b"1", b"x", b"1", b"items::0", b"1", b"later::sum", b"1", b"items::sum", b"\xff"]]).keys() == {
        (ITEMS, "")
    }


def test_a_field_holds_nothing_that_the_script_takes_for_its_separators() -> None:
    measures = Measures()
    for histogram in HISTOGRAMS.values():
        measures.note(MODEL, histogram, 1.0, "coalesced")
    assert not [name for name in measures.take()[MODEL] if set(name) & set("=,")]


def test_all_of_a_model_is_read_at_once() -> None:
    assert read(KeySpace("t"), MODEL) == [("HGETALL", "t:m:{model@1:00}")]
