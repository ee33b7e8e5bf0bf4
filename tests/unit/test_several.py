"""A near cache that hears several nodes answers only as long as it hears them all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from foreseen.client.several import Several


class Heard:
    """What the near cache was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def tracked(self) -> None:
        self.told.append("tracked")

    def answered(self, sent_at: float, server_s: float) -> None:
        self.told.append((sent_at, server_s))

    def invalidated(self, names: Iterable[str]) -> None:
        self.told.append(list(names))

    def emptied(self) -> None:
        self.told.append("emptied")

    def lost(self) -> None:
        self.told.append("lost")

    def take(self) -> list[Any]:
        told, self.told = self.told, []
        return told


def two() -> tuple[Heard, Several]:
    heard = Heard()
    return heard, Several(heard, 2)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_it_is_on_once_all_are_heard() -> None:
    heard, several = two()
    several.members[0].tracked()
    assert heard.take() == []
    several.members[1].tracked()
    assert heard.take() == ["tracked"]


def test_the_oldest_answer_counts_and_the_clock_that_is_furthest_ahead() -> None:
    heard, several = two()
    several.members[0].answered(10.0, 1010.0)
    assert heard.take() == [], "the other has not answered yet"
    several.members[1].answered(12.0, 1019.0)
    assert heard.take() == [(10.0, 1017.0)]
    several.members[0].answered(13.0, 1013.0)
    assert heard.take() == [(12.0, 1019.0)]


def test_one_that_is_lost_turns_it_off_until_it_is_heard_again() -> None:
    heard, several = two()
    for member in several.members:
        member.tracked()
        member.answered(1.0, 1.0)
    heard.take()
    several.members[0].lost()
    assert heard.take() == ["lost"]
    several.members[1].answered(2.0, 2.0)
    assert heard.take() == [], "the other's answer is gone with its connection"
    several.members[0].tracked()
    assert heard.take() == ["tracked"]


def test_changes_are_handed_on_at_once() -> None:
    heard, several = two()
    several.members[0].invalidated(["a"])
    several.members[1].emptied()
    assert heard.take() == [["a"], "emptied"]


def test_what_others_have_taken_over_says_nothing_more() -> None:
    heard, several = two()
    several.end()
    assert heard.take() == ["lost"]
    for member in several.members:
        member.tracked()
        member.answered(1.0, 1.0)
        member.lost()
    several.end()
    assert heard.take() == []
