from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foreseen.errors import Misconfigured
from workers.registry import find_models

UPPER = """
from workers import Model

class Upper(Model[str, str]):
    name = "upper"
    version = "1"

    def predict(self, batch):
        return [text.upper() for text in batch]
"""

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Return a function that writes an importable module and returns its name."""
    monkeypatch.syspath_prepend(tmp_path)
    written: list[str] = []

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_every_model_of_a_module_is_found(write: Write) -> None:
    two = UPPER + "\nclass Shout(Upper):\n    name = 'shout'\n"
    found = find_models([write("served_two", two)])
    assert list(found.models) == ["upper@1", "shout@1"]
    assert found.errors == {}


def test_what_a_module_only_imports_does_not_count(write: Write) -> None:
    write("served_upper", UPPER)
    found = find_models(
        [write("served_loud", "from served_upper import Upper\nclass Loud(Upper):\n    name = 'loud'\n")]
    )
    assert list(found.models) == ["loud@1"]


def test_one_class_can_be_named(write: Write) -> None:
    name = write("served_two", UPPER + "\nclass Shout(Upper):\n    name = 'shout'\n")
    assert list(find_models([f"{name}:Shout"]).models) == ["shout@1"]


def test_a_class_that_is_not_there_is_answered_with_those_that_are(write: Write) -> None:
    name = write("served_upper", UPPER)
    assert "has Upper" in find_models([f"{name}:Lower"]).errors[f"{name}:Lower"]


def test_naming_a_module_twice_is_no_contradiction(write: Write) -> None:
    name = write("served_upper", UPPER)
    found = find_models([name, name, f"{name}:Upper"])
    assert list(found.models) == ["upper@1"]
    assert found.errors == {}


@pytest.mark.parametrize("text", ["1 / 0", "import no_such_module_anywhere", "def broken(:", "raise SystemExit(3)"])
def test_a_module_that_does_not_import_does_not_take_the_others_down(write: Write, text: str) -> None:
    found = find_models([write("served_broken", text), write("served_upper", UPPER)])
    assert list(found.models) == ["upper@1"]
    assert "served_broken does not import" in found.errors["served_broken"]


def test_the_error_shows_the_line_that_failed(write: Write) -> None:
    error = find_models([write("served_broken", "\n\n1 / 0\n")]).errors["served_broken"]
    assert "served_broken.py" in error
    assert "line 3" in error
    assert error.endswith("ZeroDivisionError: division by zero")


def test_a_module_that_is_not_there_is_an_error() -> None:
    assert "No module named" in find_models(["no_such_module_anywhere"]).errors["no_such_module_anywhere"]


def test_of_two_models_with_one_name_and_version_neither_is_served_and_both_are_named(write: Write) -> None:
    found = find_models([write("served_upper", UPPER), write("served_again", UPPER)])
    assert found.models == {}
    for module in ("served_upper", "served_again"):
        assert "served_upper:Upper" in found.errors[module]
        assert "served_again:Upper" in found.errors[module]


def test_a_module_without_a_model_says_what_a_model_is() -> None:
    assert "defines no model" in find_models(["json"]).errors["json"]


def test_a_model_whose_name_was_forgotten_is_told(write: Write) -> None:
    nameless = UPPER.replace('name = "upper"', "")
    assert "Upper has no name" in find_models([write("served_nameless", nameless)]).errors["served_nameless"]


def test_a_wrong_name_is_told_without_a_traceback(write: Write) -> None:
    wrong = UPPER.replace('"upper"', '"Up Per"')
    error = find_models([write("served_wrong", wrong)]).errors["served_wrong"]
    assert "class Upper" in error
    assert "Traceback" not in error


def test_a_type_that_pydantic_cannot_validate_is_told_at_once(write: Write) -> None:
    wrong = UPPER.replace("Model[str, str]", "Model[str, 'NoSuchType']")
    error = find_models([write("served_wrong", wrong)]).errors["served_wrong"]
    assert "NoSuchType" in error
    assert "Traceback" not in error


class TestPlaces:
    """Files, directories of files, and what installed packages announce."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        folder = tmp_path / "served"
        folder.mkdir()
        monkeypatch.setattr(sys, "path", [*sys.path])
        before = set(sys.modules)
        yield folder
        for name in set(sys.modules) - before:
            del sys.modules[name]

    def test_every_file_of_a_directory_is_looked_at_and_one_that_is_broken_takes_no_other_down(
        self, folder: Path
    ) -> None:
        (folder / "placed_upper.py").write_text(UPPER)
        (folder / "placed_broken.py").write_text("1 / 0")
        (folder / "_helper.py").write_text("1 / 0")
        (folder / "test_upper.py").write_text("1 / 0")
        found = find_models([str(folder)])
        assert list(found.models) == ["upper@1"]
        assert list(found.errors) == ["placed_broken"]
        assert "division by zero" in found.errors["placed_broken"]

    def test_a_file_may_be_named(self, folder: Path) -> None:
        (folder / "placed_upper.py").write_text(UPPER + "\nclass Shout(Upper):\n    name = 'shout'\n")
        assert list(find_models([f"{folder}/placed_upper.py:Shout"]).models) == ["shout@1"]

    def test_a_file_that_another_module_hides_is_told(self, folder: Path) -> None:
        (folder / "json.py").write_text(UPPER)
        (error,) = find_models([str(folder / "json.py")]).errors.values()
        assert "is hidden by another module json" in error

    @pytest.mark.parametrize(
        ("name", "told"),
        [("nowhere/", "no such file"), ("empty/", "without a .py file"), ("entry-points", "no installed")],
    )
    def test_what_is_not_there_is_told_and_the_others_are_served(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
    ) -> None:
        monkeypatch.chdir(folder)
        (folder / "empty").mkdir()
        (folder / "placed_upper.py").write_text(UPPER)
        found = find_models([name, "./placed_upper.py"])
        assert list(found.models) == ["upper@1"]
        assert told in found.errors[name]

    def test_what_installed_packages_announce_is_found(self, folder: Path) -> None:
        """A package as an installer leaves it: its files, and a folder that says what it announces."""
        (folder / "announced.py").write_text(UPPER + "\nclass Shout(Upper):\n    name = 'shout'\n")
        about = folder / "announced-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: announced\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[foreseen.models]\nshout = announced:Shout\n")
        sys.path.append(str(folder))
        found = find_models(["entry-points"])
        assert list(found.models) == ["shout@1"]
        assert found.errors == {}


class TestServing:
    def test_only_what_is_named_is_served(self, write: Write) -> None:
        three = UPPER + "\n".join(f"class M{n}(Upper):\n    name = 'm'\n    version = '{n}'\n" for n in (1, 2))
        name = write("served_three", three)
        assert list(find_models([name], ["upper", "m@2"]).models) == ["upper@1", "m@2"]
        assert list(find_models([name], ["m"]).models) == ["m@1", "m@2"]

    def test_what_is_not_there_ends_the_worker_and_says_why(self, write: Write) -> None:
        write("served_broken", "1 / 0")
        with pytest.raises(Misconfigured, match=r"lower is to be served, .*: there is upper@1\n.*broken"):
            find_models([write("served_upper", UPPER), "served_broken"], ["upper", "lower"])


def test_an_empty_setting_says_how_to_set_it() -> None:
    with pytest.raises(Misconfigured, match=r"FORESEEN_MODELS=workers\.models\.file_type"):
        find_models([])


def test_importing_workers_brings_neither_celery_nor_a_framework() -> None:
    look = "import sys, workers; print(sorted({'celery', 'numpy', 'magika', 'onnxruntime'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", look], cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
