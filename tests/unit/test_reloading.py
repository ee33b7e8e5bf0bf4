"""Models found anew: what their files hold now, whatever Python has kept of what they held."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from workers.reloading import find_anew

MODEL = """
from workers import Model

class Said(Model[str, str]):
    name = "said"
    version = "{version}"

    def predict(self, batch):
        return list(batch)
"""


def test_a_change_of_the_same_second_and_size_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "said_anew.py"
    try:
        for version in ("1", "2", "3"):
            file.write_text(MODEL.format(version=version))
            os.utime(file, (1_000_000_000, 1_000_000_000))
            if version == "1":
                __import__("said_anew")  # and its bytecode is written
                assert (tmp_path / "__pycache__").exists()
            assert list(find_anew(["said_anew"], ()).models) == [f"said@{version}"]
    finally:
        sys.modules.pop("said_anew", None)
