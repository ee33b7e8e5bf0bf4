"""Python's garbage collector in a worker: it leaves alone what is loaded, until that is let go of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from acceptance.harness import POOLS, Deployment, Pool, wait_until

pytestmark = pytest.mark.acceptance

#: The set is the process's: the module is imported anew.
MODEL = """
import gc, sys, weakref
from workers import Model

alive = sys.__dict__.setdefault("models_alive", weakref.WeakSet())

class Count(Model[str, list[int]]):
    name = "count"
    version = "{version}"

    def load(self):
        self.circle = self
        alive.add(self)

    def predict(self, batch):
        gc.collect()
        return [[int(self.version), gc.get_freeze_count(), len(alive)] for text in batch]
"""


@pytest.mark.parametrize("pool", POOLS)
def test_what_is_loaded_is_not_walked_and_what_a_reload_lets_go_of_is_freed(
    deploy: Callable[..., Deployment], pool: Pool
) -> None:
    deployment = deploy(models=("count",), heartbeat_s=0.3, card_refresh_s=0.3)
    file = deployment.directory / "count.py"
    file.write_text(MODEL.format(version=1))
    path = f"{deployment.directory}:{deployment.environment['PYTHONPATH']}"
    deployment.start_worker(pool, PYTHONPATH=path)
    producer = deployment.producer()
    version, spared, alive = producer.predict("count", "first")
    assert (version, alive) == (1, 1)
    assert spared > 50_000, "all libraries and the model"

    file.write_text(MODEL.format(version=2))
    command = [sys.executable, "-m", "foreseen.cli", "models", "reload"]
    subprocess.run(command, env=deployment.environment, capture_output=True, timeout=30, check=True)
    asked = iter(range(1_000_000))

    def is_over() -> bool:
        version, spared, alive = producer.predict("count", f"again {next(asked)}", timeout=30)
        return version == 2 and alive == 1 and spared > 50_000

    wait_until(is_over, "only the new version is left, and it is left alone")
