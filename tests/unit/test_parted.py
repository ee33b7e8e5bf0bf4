"""What is sent to a cluster in two steps: what a call leads goes once that call was answered."""

from __future__ import annotations

import pytest

from foreseen.cache import parted
from foreseen.flights import Call
from foreseen.scripts import load


def call(*, leads: bool) -> Call[None]:
    return Call(load("peek"), ("a",), (), lambda _: None, leads)


@pytest.mark.parametrize(
    ("leading", "place"), [("", 0), ("L", 0), ("f", 0), ("fLL", 0), ("LLff", 2), ("fLfL", 2), ("ff", 0)]
)
def test_calls_are_parted_after_those_that_lead(leading: str, place: int) -> None:
    assert parted([call(leads=letter == "L") for letter in leading]) == place
