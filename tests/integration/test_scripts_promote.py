"""promote: which version a bare name means, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreseen.flights import KEEP_MS

if TYPE_CHECKING:
    from conftest import Steps

MODEL = "model"


def promote(steps: Steps, version: str) -> bytes | None:
    was: bytes | None = steps.run(steps.flights.promote(MODEL, version))
    return was


def pointers(steps: Steps) -> list[bytes | None]:
    """Return which version is current, and which was before."""
    return list(steps.redis.mget(steps.space.current(MODEL), steps.space.previous(MODEL)))  # type: ignore[arg-type]


def test_the_first_has_nothing_before_it(steps: Steps) -> None:
    assert promote(steps, "1") is None
    assert pointers(steps) == [b"1", None]
    assert 0 < steps.redis.pttl(steps.space.current(MODEL)) <= KEEP_MS  # type: ignore[operator]


def test_the_one_before_is_remembered(steps: Steps) -> None:
    promote(steps, "1")
    assert promote(steps, "2") == b"1"
    assert pointers(steps) == [b"2", b"1"]
    assert 0 < steps.redis.pttl(steps.space.previous(MODEL)) <= KEEP_MS  # type: ignore[operator]
    promote(steps, "3")
    assert pointers(steps) == [b"3", b"2"]


def test_promoted_twice_as_by_two_workers_a_version_is_not_the_one_before_itself(steps: Steps) -> None:
    promote(steps, "1")
    promote(steps, "2")
    assert promote(steps, "2") == b"2"
    assert pointers(steps) == [b"2", b"1"]


def test_back_and_forth(steps: Steps) -> None:
    promote(steps, "1")
    promote(steps, "2")
    promote(steps, "1")
    assert pointers(steps) == [b"1", b"2"]
