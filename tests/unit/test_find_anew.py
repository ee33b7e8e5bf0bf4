"""Importing modules with models anew: what lies beside them too, and nothing of it if one is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from foreseen.errors import Misconfigured
from workers.registry import find_models
from workers.reloading import find_anew

MODEL = """
from {package}anew_words import WORD
from workers import Model

class Word(Model[str, str]):
    name = "word"
    version = WORD

    def predict(self, batch):
        return [WORD for _ in batch]
"""


@pytest.fixture(params=["", "anew_package."])
def module(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module with a model, and one beside it, alone or in a package."""
    monkeypatch.syspath_prepend(tmp_path)
    package: str = request.param
    folder = tmp_path / package.rstrip(".")
    folder.mkdir(exist_ok=True)
    if package:
        (folder / "__init__.py").touch()
    (folder / "anew_word.py").write_text(MODEL.format(package=package))
    before = set(sys.modules)
    write(tmp_path, package, "old")
    yield f"{package}anew_word"
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(root: Path, package: str, text: str) -> None:
    """Write the module beside; texts differ in length, since Python knows compiled files by time and size."""
    (root / package.rstrip(".") / "anew_words.py").write_text(f"WORD = {text!r}\n")


def test_what_lies_beside_it_is_imported_anew_too(module: str, tmp_path: Path) -> None:
    assert list(find_models([module]).models) == ["word@old"]
    write(tmp_path, module.rpartition("anew_word")[0], "newer")
    assert list(find_models([module]).models) == ["word@old"], "an import alone changes nothing"
    assert list(find_anew([module], []).models) == ["word@newer"]
    assert list(find_models([module]).models) == ["word@newer"]


def test_if_one_is_wrong_all_stay_as_they_are(module: str, tmp_path: Path) -> None:
    (before,) = find_models([module]).models.values()
    words = sys.modules[f"{module}s"]
    path = tmp_path / module.rpartition("anew_word")[0].rstrip(".") / "anew_words.py"
    path.write_text("1 / 0  # longer than it was\n")
    assert "division by zero" in find_anew([module], []).errors[module]
    assert sys.modules[f"{module}s"] is words
    assert list(find_models([module]).models.values()) == [before]


def test_so_do_they_if_one_that_is_to_be_served_is_gone(module: str, tmp_path: Path) -> None:
    (before,) = find_models([module]).models.values()
    write(tmp_path, module.rpartition("anew_word")[0], "newest")
    with pytest.raises(Misconfigured, match="word@old is to be served"):
        find_anew([module], ["word@old"])
    assert list(find_models([module]).models.values()) == [before]


def test_ours_stay_and_so_does_what_is_installed(module: str) -> None:
    find_models([module])
    kept = {name: sys.modules[name] for name in ("workers", "workers.model", "foreseen.errors", "pytest")}
    find_anew([module, "workers.models.file_type"], [])
    assert {name: sys.modules[name] for name in kept} == kept
