"""New versions served without a restart: loaded beside the old ones, which finish what they compute."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from acceptance.harness import POOLS, Deployment, Pool, wait_until

from producer import Producer

pytestmark = pytest.mark.acceptance

MODEL = """
import os, time
from pathlib import Path

from mark_words import WORD
from workers import Model

class Mark(Model[str, str]):
    name = "mark"
    files = ("weights", "mark_words.py")

    def load(self):
        self.weights = (Path(__file__).parent / "weights").read_text()
        if self.weights == "broken":
            raise OSError("cannot be read")

    def predict(self, batch):
        for text in batch:
            while text.startswith("/") and not Path(text).exists():
                time.sleep(0.01)
        return [f"{WORD} {self.weights} {os.getpid()}" for text in batch]

class Steady(Model[str, str]):
    name = "steady"
    version = "1"

    def predict(self, batch):
        return [text + " steady" for text in batch]
"""


class Rollout:
    """A deployment whose model says the word of a module beside it, and its weights; and where it was computed."""

    def __init__(self, deployment: Deployment, pool: Pool) -> None:
        self.deployment = deployment
        self.write("old", "1")
        (deployment.directory / "mark.py").write_text(MODEL)
        path = f"{deployment.directory}:{deployment.environment['PYTHONPATH']}"
        self.worker = deployment.start_worker(pool, PYTHONPATH=path)
        self.producer: Producer = deployment.producer()
        self._asked = 0

    def write(self, word: str, weights: str) -> None:
        (self.deployment.directory / "mark_words.py").write_text(f"WORD = {word!r}\n")
        (self.deployment.directory / "weights").write_text(weights)

    def reload(self) -> str:
        """Return what it says, as soon as the worker has answered: nobody waits for as long as it could have taken."""
        command = [sys.executable, "-m", "foreseen.cli", "models", "reload", "--wait", "60"]
        done = subprocess.run(
            command, env=self.deployment.environment, capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout + done.stderr

    def reload_again(self) -> str:
        """Return what it says once the one before is over, old processes and all."""
        told: list[str] = []

        def is_over() -> bool:
            told.append(self.reload())
            return "a reload is under way" not in told[-1]

        wait_until(is_over, "the reload before is over")
        return told[-1]

    def ask(self) -> str:
        """Return word and weights that answer an input never asked for before."""
        self._asked += 1
        said: str = self.producer.predict("mark", f"{self._asked}", timeout=30)
        return said.rpartition(" ")[0]


@pytest.fixture(params=POOLS)
def rollout(request: pytest.FixtureRequest, deploy: Callable[..., Deployment]) -> Rollout:
    return Rollout(deploy(models=("mark",), heartbeat_s=0.3, card_refresh_s=0.3, lease_s=10.0), request.param)


@pytest.mark.parametrize("rollout", ["prefork", "threads"], indirect=True)  # solo hears of nothing while it computes
def test_new_weights_and_code_are_served_and_what_runs_is_finished(rollout: Rollout) -> None:
    assert rollout.ask() == "old 1"
    gate = rollout.deployment.gate("go")
    running = rollout.producer.submit("mark", str(gate))
    version = running.key.partition(":")[0]
    wait_until(lambda: rollout.deployment.flight(str(gate), *version.split("@")).get("state") == "running", "it runs")
    rollout.write("new", "2")
    told = rollout.reload()
    assert "worker0@localhost: loads mark@" in told
    assert f"lets go of {version}" in told
    if rollout.worker.children():
        wait_until(lambda: rollout.ask() == "new 2", "the new version is served")
    rollout.deployment.open_gate("go")
    assert running.result(30).startswith("old 1 ")
    assert running.key.partition(":")[0] == version
    wait_until(lambda: rollout.ask() == "new 2", "the new version is served")
    assert {rollout.ask() for _ in range(20)} == {"new 2"}
    assert rollout.producer.predict("steady", "a") == "a steady"
    assert rollout.worker.is_running


def test_every_process_is_replaced_and_none_is_left_over(deploy: Callable[..., Deployment]) -> None:
    rollout = Rollout(deploy(models=("mark",), heartbeat_s=0.3, card_refresh_s=0.3), "prefork")
    before = {child.pid for child in rollout.worker.children()}
    rollout.write("new", "2")
    rollout.reload()
    wait_until(lambda: not before & {child.pid for child in rollout.worker.children()}, "all are replaced")
    wait_until(lambda: len(rollout.worker.children()) == len(before), "as many as before")
    assert rollout.ask() == "new 2"
    assert rollout.reload_again() == "worker0@localhost: nothing has changed\n"
    assert rollout.worker.logged("Traceback") == 0


def test_what_waits_when_its_version_goes_is_computed_by_the_next(rollout: Rollout) -> None:
    assert rollout.ask() == "old 1"
    rollout.write("new", "2")
    rollout.reload()
    pendings = [rollout.producer.submit("mark", f"burst {n}") for n in range(50)]  # some reach the old one's queue
    assert {pending.result(60).rpartition(" ")[0] for pending in pendings} <= {"old 1", "new 2"}
    wait_until(lambda: rollout.ask() == "new 2", "the new version is served")


@pytest.mark.parametrize("broken", ["WORD = 1 / 0\n", None])
def test_a_file_that_is_broken_changes_nothing(rollout: Rollout, broken: str | None) -> None:
    assert rollout.ask() == "old 1"
    if broken is None:
        rollout.write("new", "broken")
    else:
        (rollout.deployment.directory / "mark_words.py").write_text(broken)
    told = rollout.reload()
    if broken is None:
        wait_until(lambda: rollout.worker.logged("the reload is given up"), "it is given up")
    else:
        assert "goes on as before" in told
        assert "ZeroDivisionError" in told
    assert {rollout.ask() for _ in range(10)} == {"old 1"}
    rollout.write("new", "3")
    assert "loads mark@" in rollout.reload_again()
    wait_until(lambda: rollout.ask() == "new 3", "once it is mended, it is served")


def test_nothing_happens_where_nothing_has_changed(rollout: Rollout) -> None:
    assert rollout.reload() == "worker0@localhost: nothing has changed\n"
    assert rollout.ask() == "old 1"
