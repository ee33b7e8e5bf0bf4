"""What docs/reference shows is what the code is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.stem)
def test_a_page_shows_the_code_as_it_is(generate: ModuleType, page: Path) -> None:
    assert page.read_text(encoding="utf-8") == generate.pages()[page], "run `make reference`"


def test_every_page_is_made(generate: ModuleType) -> None:
    assert set(generate.pages()) == set(FOLDER.glob("*.md"))


def test_whoever_reads_a_setting_is_told_from_the_code(generate: ModuleType) -> None:
    """By where it is used: a setting of workers alone, of producers alone, and of both."""
    readers = {line.split(" | ")[0].strip("| `"): line.split(" | ")[3] for line in generate.settings().splitlines()}
    assert readers["FORESEEN_HEARTBEAT_S"] == "workers"
    assert readers["FORESEEN_NEAR_CACHE_BYTES"] == "producers"
    assert readers["FORESEEN_LEASE_S"] == "both"
