"""The parts of `foreseen up` that need no process."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from foreseen.cli.up.example import example
from foreseen.cli.up.flower import Flower, login_from
from foreseen.cli.up.log_lines import Line, LogLines
from foreseen.cli.up.restarts import Restarts
from foreseen.errors import Misconfigured
from foreseen.modules import Given, environment_of, parse
from workers import Model


class Inner(BaseModel):
    x: float
    tags: list[str] = []


class Outer(BaseModel):
    inner: Inner
    kind: str = Field(examples=["cat"])
    pair: list[int] = Field(min_length=2)
    maybe: int | None


class Endless(BaseModel):
    more: Endless


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (str, "hello"),
        (bytes, b"hello"),
        (int, 1),
        (bool, True),
        (list[str], []),
        (dict[str, float], {}),
        (Outer, {"inner": {"x": 1.0}, "kind": "cat", "pair": [1, 1], "maybe": 1}),
    ],
    ids=str,
)
def test_an_example_fits_its_type(hint: Any, expected: Any) -> None:
    class Anything(Model[hint, str]):
        name = "any"
        version = "1"

        def predict(self, batch: Any) -> Any:
            return batch

    assert example(Anything.input_schema()) == expected
    Anything.validate_input(expected)


@pytest.mark.parametrize("schema", [{}, True, TypeAdapter(Endless).json_schema()], ids=["any", "true", "endless"])
def test_where_a_schema_says_nothing_there_is_no_example(schema: Any) -> None:
    with pytest.raises(LookupError):
        example(schema)


def test_pauses_grow_to_half_a_minute() -> None:
    restarts = Restarts()
    assert [restarts.pause_s(1.0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_what_ran_for_long_starts_over_with_the_shortest_pause() -> None:
    restarts = Restarts()
    assert [restarts.pause_s(ran_s) for ran_s in (1.0, 1.0, 3600.0)] == [1, 2, 1]


def test_what_dies_at_its_start_twice_in_a_row_is_given_up() -> None:
    restarts = Restarts()
    assert [restarts.pause_s(ran_s) for ran_s in (None, 1.0, None)] == [1, 2, 4]
    assert restarts.pause_s(None) is None
    restarts.forget()
    assert restarts.pause_s(None) == 1


CELERY = """\
 -------------- up-1@vm v5.7.0 (collider)
[2026-01-31 12:00:00,123: INFO/ForkPoolWorker-1] shout@1 is loaded
[2026-01-31 12:00:00,124: INFO/ForkPoolWorker-2] shout@1 is loaded
[2026-01-31 12:00:00,125: INFO/MainProcess] up-1@vm ready.
[2026-01-31 12:00:01,000: ERROR/ForkPoolWorker-1] a model failed
Traceback (most recent call last):
ValueError: no
[2026-01-31 12:00:02,000: INFO/MainProcess] Task foreseen.predict succeeded
of which nothing is to be seen
[2026-01-31 12:00:03,000: WARNING/ForkPoolWorker-1] printed"""


def test_of_a_log_that_is_shown_which_matters() -> None:
    lines = LogLines(frozenset({"WARNING", "ERROR"}))
    assert [each for line in CELERY.splitlines() if (each := lines.choose(line))] == [
        Line("INFO", "shout@1 is loaded"),
        Line("ERROR", "a model failed"),
        Line("ERROR", "Traceback (most recent call last):"),
        Line("ERROR", "ValueError: no"),
        Line("WARNING", "printed"),
    ]
    assert lines.choose("[E 260131 12:00:00 web:1875] Uncaught exception") == Line("ERROR", "Uncaught exception")
    assert lines.choose("[W 260131 12:00:00 inspector:42] Inspect method failed") == Line(
        "WARNING", "Inspect method failed"
    )
    assert lines.choose("[I 260131 12:00:00 command:168] Visit me") is None


def test_everything_is_shown_if_asked_for() -> None:
    lines = LogLines(None)
    assert all(lines.choose(line) for line in CELERY.splitlines())


def test_a_path_becomes_a_module_and_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "models" / "deep"
    package.mkdir(parents=True)
    for each in (tmp_path / "shout.py", tmp_path / "models" / "plain.py", package / "__init__.py", package / "one.py"):
        each.touch()
    assert parse("shout.py") == Given("shout", tmp_path / "shout.py", tmp_path)
    assert parse("./models/plain.py") == Given("plain", tmp_path / "models" / "plain.py", tmp_path / "models")
    assert parse("models/deep/one.py:One") == Given("deep.one:One", package / "one.py", tmp_path / "models")
    assert parse("package.module:Class") == Given("package.module:Class")


@pytest.mark.parametrize("argument", ["nowhere.py", "models/", "./notes.txt", "v1.2.py"])
def test_a_path_that_cannot_be_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "v1.2.py").touch()
    with pytest.raises(Misconfigured, match=argument.strip("./")):
        parse(argument)


def test_directories_of_files_come_before_what_the_path_has() -> None:
    given = [Given("a", Path("/x/a.py"), Path("/x")), Given("b", Path("/x/b.py"), Path("/x")), Given("json")]
    assert environment_of(given, {"PYTHONPATH": "/y", "HOME": "/z"})["PYTHONPATH"] == "/x:/y"
    assert "PYTHONPATH" not in environment_of([Given("json")], {})


def test_a_login_is_made_anew_each_time_unless_one_is_set() -> None:
    made = {login_from({}) for _ in range(5)}
    assert len(made) == 5
    assert all(login.startswith("foreseen:") and len(login) >= 20 for login in made)
    assert login_from({"FORESEEN_FLOWER_LOGIN": "ann:open:sesame"}) == "ann:open:sesame"
    assert "sesame" not in repr(Flower(5555, "ann:sesame"))


@pytest.mark.parametrize("login", ["", "ann", "ann:", ":sesame", "ann:a,b"])
def test_a_login_that_flower_would_not_take_is_refused_and_not_told(login: str) -> None:
    with pytest.raises(Misconfigured, match="user:password") as raised:
        login_from({"FORESEEN_FLOWER_LOGIN": login})
    assert "sesame" not in str(raised.value)


def test_a_package_that_hides_one_of_foreseens_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foreseen.cli.up.inspection import shadowed

    assert shadowed() is None
    mine = tmp_path / "workers.py"
    mine.touch()
    spec = importlib.util.spec_from_file_location("workers", mine)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    assert str(mine) in str(shadowed())
