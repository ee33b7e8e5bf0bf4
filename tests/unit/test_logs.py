from __future__ import annotations

import json
import logging
import sys

from foreseen.logs import FIELDS, JsonFormatter


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("foreseen.worker", logging.WARNING, __file__, 1, message, arguments, None)
    made.created = 1_800_000_000.0123
    vars(made).update(extra)
    return made


def test_a_record_is_one_line_of_json() -> None:
    line = JsonFormatter().format(record('two\nlines, "%s"', "ü", key="model@1:12345678", duration_s=0.5))
    assert "\n" not in line
    told = json.loads(line)
    assert told.pop("process")
    assert told == {
        "time": "2027-01-15T08:00:00.012+00:00",
        "level": "WARNING",
        "logger": "foreseen.worker",
        "message": 'two\nlines, "ü"',
        "key": "model@1:12345678",
        "duration_s": 0.5,
    }


def test_what_others_attach_is_not_written() -> None:
    assert "secret" not in JsonFormatter().format(record("x", data={"args": "secret"}, source=None))
    assert "data" not in FIELDS


def test_an_exception_is_told_in_the_same_line() -> None:
    try:
        raise ValueError("wrong")  # noqa: TRY301 - to have it
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: wrong")
