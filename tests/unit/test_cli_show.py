from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from foreseen.cli.show import as_json, drawn, plain
from foreseen.payload import pack, unpack


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"a": [1, 2.5, True, None]}, {"a": [1, 2.5, True, None]}),
        (b"\x00\xff", {"$bytes": "AP8="}),
        (float("nan"), "NaN"),
        ([float("inf"), float("-inf")], ["Infinity", "-Infinity"]),
        (np.array([[1, 2]], dtype="<i4"), [[1, 2]]),
        (np.array(3.5), 3.5),
        (np.array([float("nan")]), ["NaN"]),
        (np.array([1 + 2j]), [[1.0, 2.0]]),
        (np.array([True]), [True]),
        ({"deep": [{"x": b""}]}, {"deep": [{"x": {"$bytes": ""}}]}),
    ],
)
def test_every_output_has_a_form_in_json(value: Any, shown: Any) -> None:
    text = as_json(unpack(pack(value)))
    assert json.loads(text, parse_constant=pytest.fail) == shown
    assert "\n" not in text


def test_letters_of_all_languages_are_shown_as_they_are() -> None:
    assert as_json("né 日本") == '"né 日本"'


@pytest.mark.parametrize("character", ["\x1b", "\x9b", "\x7f", "\n", "\r"])
def test_what_a_terminal_would_act_on_is_escaped(character: str) -> None:
    assert character not in as_json({character: character})
    assert json.loads(as_json(character)) == character
    assert character not in plain(f"a{character}b")


def test_a_row_of_a_table_is_one_line_where_there_is_no_terminal() -> None:
    from rich.table import Table

    table = Table("first", "second")
    table.add_row("x" * 90, "y" * 90)
    assert any("x" * 90 in line and "y" * 90 in line for line in drawn(table).splitlines())
