from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from workers.deviation import deviation

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (None, None), (True, True), (1, 1), (1, 1.0), (0.5, 0.5), (-0.0, 0.0), (NAN, NAN), (INF, INF), ("a", "a"),
        (b"a", b"a"), ([], []), ({}, {}), ([{"x": [1, NAN]}], [{"x": [1, NAN]}]), ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (np.array([1.0, NAN, INF]), np.array([1.0, NAN, INF])), (np.array([], "f4"), np.array([], "f4")),
        (np.array([1, 2]), np.array([1, 2])), (np.array(True), np.array(True)),
    ],
)  # fmt: skip
def test_equal_values_are_not_apart(one: Any, other: Any) -> None:
    assert deviation(one, other) == deviation(other, one) == 0.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (None, 0), (True, 1), (False, 0.0), (1, 2), (2**60, 2**60 + 1), (0.5, "0.5"), ("a", "b"), ("a", b"a"),
        (NAN, 0.5),
        (INF, -INF), (1e308, INF), (1e308, -1e308), ([1], [1, 1]), ([1, 2], [2, 1]), ({"a": 1}, {"a": 1, "b": 1}),
        ({"a": 1}, {"b": 1}), ([], {}), ([1.0], np.array([1.0])), (np.array([1.0], "f4"), np.array([1.0], "f8")),
        (np.zeros((2, 3)), np.zeros((3, 2))), (np.array([1, 2]), np.array([1, 3])), (np.array([1.0]), np.array([NAN])),
    ],
)  # fmt: skip
def test_what_differs_in_more_than_floats_is_infinitely_apart(one: Any, other: Any) -> None:
    assert deviation(one, other) == deviation(other, one) == INF


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (0.5, 0.6, 0.1), (0, 0.25, 0.25), (1000.0, 1001.0, 1 / 1001), (-1000.0, -1001.0, 1 / 1001),
        ({"a": [0.5, {"b": 0.1}]}, {"a": [0.5, {"b": 0.3}]}, 0.2), (["x", 0.1, 0.2], ["x", 0.15, 0.5], 0.3),
        (np.array([[0.5, 1000.0]]), np.array([[0.6, 1001.0]]), 0.1),
        (np.array([1 + 1j]), np.array([1 + 1.5j]), 0.5 / abs(1 + 1.5j)),
        (np.array([60000.0], "f2"), np.array([-60000.0], "f2"), 2.0),
    ],
)  # fmt: skip
def test_floats_are_as_far_apart_as_the_farthest(one: Any, other: Any, apart: float) -> None:
    assert deviation(one, other) == pytest.approx(apart)
    assert deviation(other, one) == pytest.approx(apart)
