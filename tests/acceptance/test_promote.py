"""A worker that is told to makes what it serves current, and the producers follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from acceptance.harness import Deployment, wait_until

pytestmark = pytest.mark.acceptance

_MODEL = """
from workers import Model

class Mark(Model[str, str]):
    name = "mark"
    version = "{version}"

    def predict(self, batch):
        return [text + "{version}" for text in batch]
"""


@pytest.mark.parametrize("promote", [True, False])
def test_a_newer_worker_is_followed_only_if_it_says_so(
    deploy: Callable[..., Deployment], tmp_path: Path, *, promote: bool
) -> None:
    deployment = deploy(card_refresh_s=0.2, heartbeat_s=0.3)

    def start(version: str) -> None:
        folder = tmp_path / version
        folder.mkdir()
        (folder / "mark.py").write_text(_MODEL.format(version=version))
        python_path = f"{folder}:{deployment.environment['PYTHONPATH']}"
        deployment.start_worker(
            "solo", PYTHONPATH=python_path, FORESEEN_MODELS="mark", FORESEEN_PROMOTE=str(promote).lower()
        )

    start("1")
    producer = deployment.producer()
    assert producer.predict("mark", "a") == "a1"
    start("2")
    assert producer.predict("mark@2", "a") == "a2"
    if promote:
        wait_until(lambda: producer.predict("mark", "a") == "a2", "the producer follows")
        assert [producer.predict("mark", f"{n}") for n in range(5)] == [f"{n}2" for n in range(5)]
    else:
        with deployment.redis() as client:
            assert client.get("foreseen:current:mark") == b"1"
        assert producer.predict("mark", "b") == "b1"
