from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreseen.cli.inputs import Form, form_of, largest_bytes, read, shown
from foreseen.cli.predict import in_flight
from foreseen.value_type import ValueType


class TestForm:
    """What a model takes, by the schema on its card."""

    @pytest.mark.parametrize(
        ("hint", "form"),
        [
            (bytes, Form.BYTES), (bytes | None, Form.BYTES), (np.ndarray, Form.NPY), (str, Form.TEXT),
            (int, Form.JSON), (str | int, Form.JSON), (dict[str, Any], Form.JSON), (list[bytes], Form.JSON),
            (Any, Form.JSON),
        ],
    )  # fmt: skip
    def test_it_follows_the_type_that_the_model_declares(self, hint: Any, form: Form) -> None:
        assert form_of(ValueType(hint).schema("validation")) is form

    @pytest.mark.parametrize("schema", [True, False, {}])
    def test_a_card_that_says_nothing_means_json(self, schema: Any) -> None:
        assert form_of(schema) is Form.JSON


class TestReading:
    def test_a_file_that_exists_is_its_content(self, tmp_path: Path) -> None:
        file = tmp_path / "1"
        file.write_text("2")
        assert [each.value for each in read([str(file)], Form.JSON)] == [2]
        assert [each.value for each in read([str(file)], Form.TEXT)] == ["2"]
        assert [each.value for each in read([str(file)], Form.BYTES)] == [b"2"]

    @pytest.mark.parametrize(
        ("argument", "form", "value"),
        [('{"a": [1, null]}', Form.JSON, {"a": [1, None]}), ("no such", Form.TEXT, "no such"), ("é", Form.TEXT, "é")],
    )  # fmt: skip
    def test_anything_else_is_the_input_itself(self, argument: str, form: Form, value: Any) -> None:
        assert [tuple(each) for each in read([argument], form)] == [(argument, value, None)]

    @pytest.mark.parametrize("form", [Form.BYTES, Form.NPY])
    def test_a_slip_in_a_path_is_never_taken_for_bytes(self, form: Form) -> None:
        (given,) = read(["READNE.md"], form)
        assert "no such file" in str(given.error)

    def test_an_input_longer_than_any_name_of_a_file_is_fine(self) -> None:
        text = f'"{"x" * 100_000}"'
        assert [each.error for each in read([text], Form.JSON)] == [None]

    def test_an_array_comes_from_a_file_in_numpy_s_format(self, tmp_path: Path) -> None:
        file = tmp_path / "a.npy"
        np.save(file, np.arange(3, dtype="<f4"))
        (given,) = read([str(file)], Form.NPY)
        np.testing.assert_array_equal(given.value, np.arange(3, dtype="<f4"))

    def test_an_array_of_objects_is_refused(self, tmp_path: Path) -> None:
        """It would have to be unpickled, which runs whatever code it holds."""
        written = io.BytesIO()
        np.save(written, np.array([{}], dtype=object), allow_pickle=True)
        file = tmp_path / "a.npy"
        file.write_bytes(written.getvalue())
        (given,) = read([str(file)], Form.NPY)
        assert "not an array" in str(given.error)

    @pytest.mark.parametrize(
        ("content", "form", "told"),
        [
            (b"{", Form.JSON, "not JSON"), (b"", Form.JSON, "not JSON"), (b"\xff", Form.JSON, "not JSON"),
            (b"[" * 100_000, Form.JSON, "not JSON"), (b"1" * 10_000, Form.JSON, "not JSON"),
            (b"a\xff", Form.TEXT, "not UTF-8 text: invalid start byte at byte 1"), (b"x", Form.NPY, "not an array"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_read_is_that_one_s_error(
        self, tmp_path: Path, content: bytes, form: Form, told: str
    ) -> None:
        bad, good = tmp_path / "bad", tmp_path / "good"
        bad.write_bytes(content)
        np.save(good.with_suffix(".npy"), np.zeros(1)) if form is Form.NPY else good.write_text("1")
        last = good.with_suffix(".npy") if form is Form.NPY else good
        first, second = read([str(bad), str(last)], form)
        assert told in str(first.error)
        assert second.error is None

    def test_a_folder_cannot_be_read(self, tmp_path: Path) -> None:
        (given,) = read([str(tmp_path)], Form.BYTES)
        assert "cannot be read: Is a directory" in str(given.error)

    def test_each_line_is_an_input_named_by_its_number(self, tmp_path: Path) -> None:
        file = tmp_path / "lines"
        file.write_text('1\n\n{\n"a"')
        given = list(read([str(file)], Form.JSONL))
        assert [(each.name, each.value) for each in given] == [
            (f"{file}:1", 1),
            (f"{file}:3", None),
            (f"{file}:4", "a"),
        ]
        assert [each.error is None for each in given] == [True, False, True]

    def test_nothing_is_read_before_it_is_wanted(self, tmp_path: Path) -> None:
        first, second = tmp_path / "1", tmp_path / "2"
        first.write_text("1")
        inputs = read([str(first), str(second)], Form.JSON)
        assert next(inputs).value == 1
        second.write_text("2")
        assert next(inputs).value == 2

    def test_the_largest_file_counts(self, tmp_path: Path) -> None:
        file = tmp_path / "f"
        file.write_bytes(b"123")
        assert largest_bytes([str(file), "-", "none"]) == 3
        assert largest_bytes([]) == 0

    @pytest.mark.parametrize(("size", "count"), [(0, 1000), (100_000, 1000), (2**20, 256), (2**28, 1), (2**40, 1)])
    def test_large_inputs_are_under_way_a_few_at_a_time(self, size: int, count: int) -> None:
        assert in_flight(size) == count

    def test_a_name_is_shown_short_unless_it_is_a_path(self, tmp_path: Path) -> None:
        file = tmp_path / ("n" * 100)
        file.touch()
        assert shown(str(file)) == str(file)
        assert len(shown("x" * 1000)) == 60
