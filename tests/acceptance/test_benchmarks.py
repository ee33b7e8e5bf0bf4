"""The benchmarks run, and write what they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parents[2]


def test_a_short_run_writes_its_figures(tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--only", "round-trips", "--json", str(written)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    ways = {each["name"]: each for each in json.loads(written.read_text())["commands"]}
    hit = ways["hit"]
    assert hit["join"] == hit["submissions"] > 0
    assert hit["lpush"] == hit["other"] == 0
