"""The table of docs/trust.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "trust.md"
_NAMED = re.compile(r"`(?P<file>(?:unit|integration|acceptance|chaos)/\w+\.py)(?:::(?P<name>[\w:]+))?`")


def names_in(path: Path) -> set[str]:
    """Return the names of a file's tests and of their classes, as pytest writes them; of a class's tests both ways."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            own = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
            names |= {node.name, *(f"{node.name}::{name}" for name in own)}
    return {name for name in names if name.startswith(("test_", "Test"))}


def test_every_test_that_the_page_names_exists() -> None:
    named = list(_NAMED.finditer(PAGE.read_text(encoding="utf-8")))
    assert len(named) > 50
    missing = [
        each[0]
        for each in named
        if not (path := ROOT / "tests" / each["file"]).is_file()
        or (each["name"] is not None and each["name"] not in names_in(path))
    ]
    assert not missing


def test_every_way_to_be_wrong_has_a_test() -> None:
    _, table = PAGE.read_text(encoding="utf-8").split("## Ways to be wrong")
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 20
    assert [row for row in rows if not _NAMED.search(row.rpartition("|")[0].rpartition(" | ")[2])] == []
