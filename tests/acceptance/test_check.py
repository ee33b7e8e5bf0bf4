"""`foreseen check`, as somebody runs it beside a model file: no server and no worker is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.acceptance

MODELS: Final = """
from collections.abc import Sequence
from random import random

import numpy as np

from workers import Batching, Model, as_model


class Doubled(Model[np.ndarray, float]):
    name = "doubled"
    version = "1"
    batching = Batching(max_batch_size=4)

    def predict(self, batch):
        return [float(2 * each.sum()) for each in batch]


@as_model(version="1", examples=["a", "b"])
def chance(text: str) -> float:
    return random()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import numpy as np

    (tmp_path / "shapes.py").write_text(MODELS)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.full(3, ord(name)))
    return tmp_path


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "foreseen", "check", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120", "FORESEEN_CACHE_URL": "redis://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_passes_is_told_with_what_batches_cost(folder: Path) -> None:
    ended = check(folder, "shapes.py:Doubled", "--input", "a.npy", "--input", "b.npy")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].strip() == "doubled@1"
    assert [line.split()[0] for line in lines[1:8]] == ["✓", "✓", "-", "✓", "✓", "✓", "✓"]
    assert "batch equals single  a batch of 4: the same" in ended.stdout
    assert "items a second" in ended.stdout
    assert "max_batch_size=" in ended.stdout


def test_as_json_it_can_be_read_by_a_program(folder: Path) -> None:
    ended = check(folder, "shapes:Doubled", "--input", "a.npy", "--input", "b.npy", "--json")
    (told,) = json.loads(ended.stdout)
    assert (told["model"], told["passed"], told["max_batch_size"]) == ("doubled@1", True, 4)
    assert [cost["batch_size"] for cost in told["costs"]] == [1, 2, 4]
    assert told["suggested_batch_size"] in {1, 2, 4}


def test_what_fails_ends_with_1(folder: Path) -> None:
    ended = check(folder, "shapes.py:chance")
    assert ended.returncode == 1
    assert "✗  deterministic" in ended.stdout
    assert "items a second" not in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["shapes.py:Doubled"], "doubled@1 has no examples to try"),
        (["shapes.py:Doubled", "--input", "c.npy"], "c.npy: no such file"),
        (["shapes.py:Missing"], "is not a model: shapes has"),
        (["missing.py"], "missing.py: there is no such file"),
    ],
)
def test_what_cannot_be_tried_ends_with_2_and_says_why(folder: Path, arguments: list[str], told: str) -> None:
    ended = check(folder, *arguments)
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
