"""The life of a model in a worker: loaded and warmed up before it takes work, or not served while others are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from acceptance.harness import POOLS, Deployment, Pool, wait_until

from foreseen import worker_cards
from foreseen.keys import KeySpace
from foreseen.worker_cards import ModelLife
from producer import ModelNotServed

pytestmark = pytest.mark.acceptance

MODELS = """
import os, time
from pathlib import Path

from workers import Model

HERE = Path(os.environ["HERE"])


class Warm(Model[str, str]):
    name = "warm"
    version = "1"
    examples = ("example",)

    def load(self):
        while not (HERE / "weights").exists():
            time.sleep(0.01)

    def predict(self, batch):
        with (HERE / "calls").open("a") as calls:
            calls.write("".join(f"{os.getpid()} {text}\\\\n" for text in batch))
        return [text.upper() for text in batch]


class Weightless(Warm):
    name = "weightless"

    def load(self):
        if not (HERE / "mended").exists():
            raise OSError("no weights")


class Cold(Warm):
    name = "cold"

    def load(self):
        pass

    def predict(self, batch):
        if "example" in batch and not (HERE / "mended").exists():
            raise RuntimeError("no device")
        return list(batch)
""".replace("\\\\", "\\")


@pytest.fixture
def deployment(deploy: Callable[..., Deployment]) -> Deployment:
    deployment = deploy(models=("lives",), heartbeat_s=0.3, model_wait_s=0.5)
    (deployment.directory / "lives.py").write_text(MODELS)
    return deployment


def start(deployment: Deployment, pool: Pool, *, wait: bool = True) -> None:
    python_path = f"{deployment.directory}:{deployment.environment['PYTHONPATH']}"
    deployment.start_worker(pool, wait=wait, PYTHONPATH=python_path, HERE=str(deployment.directory))


def lives(deployment: Deployment) -> dict[str, ModelLife]:
    """Return what the only worker says of its models; nothing if there is none."""
    space = KeySpace(deployment.settings.namespace)
    with deployment.redis() as cache:
        names = [member.decode() for member in cache.smembers(space.workers())]
        cards = [worker_cards.parse(cache.get(space.worker_card(name))) for name in names]
    alive = [card for card in cards if card is not None]
    assert len(alive) <= 1
    return alive[0].models if alive else {}


def calls(deployment: Deployment) -> list[list[str]]:
    """Return process and input of each computation."""
    path: Path = deployment.directory / "calls"
    *lines, _ = path.read_text().split("\n") if path.exists() else [""]  # the last may be half written
    return [line.split() for line in lines]


@pytest.mark.parametrize("pool", POOLS)
def test_what_could_not_be_loaded_or_warmed_up_is_not_served_and_the_others_are(
    deployment: Deployment, pool: Pool
) -> None:
    (deployment.directory / "weights").touch()
    start(deployment, pool)
    producer = deployment.producer()
    assert producer.predict("warm", "a") == "A"
    wait_until(lambda: len({life.state for life in lives(deployment).values()} - {"loading"}) == 2, "all have tried")
    told = lives(deployment)
    assert {model_id: life.state for model_id, life in told.items()} == {
        "warm@1": "served",
        "weightless@1": "failed",
        "cold@1": "failed",
    }
    assert told["weightless@1"].error == "weightless@1 could not be loaded: OSError: no weights"
    assert told["cold@1"].error == "cold@1 could not be warmed up: RuntimeError: no device"
    for model in ("weightless", "cold"):
        with pytest.raises(ModelNotServed):
            producer.predict(model, "a")
    with deployment.redis() as cache:
        assert not cache.exists("foreseen:card:cold@1", "foreseen:current:cold")


@pytest.mark.parametrize("pool", POOLS)
def test_nothing_is_taken_for_a_model_before_it_is_warm(deployment: Deployment, pool: Pool) -> None:
    start(deployment, pool, wait=False)
    producer = deployment.producer(model_wait_s=30.0)
    (deployment.directory / "weights").touch()
    assert producer.predict("warm", "a") == "A"
    made = calls(deployment)
    (asked,) = [call for call in made if call[1] == "a"]
    assert made.index([asked[0], "example"]) < made.index(asked)  # in the process that computed it
    assert lives(deployment)["warm@1"].state == "served"


def test_a_message_of_a_model_that_one_process_lost_is_computed_once_it_is_mended(deployment: Deployment) -> None:
    """It cannot be loaded where a process has died, and waits in its queue until that is mended."""
    directory = deployment.directory
    (directory / "weights").touch()
    (directory / "mended").touch()
    start(deployment, "prefork")
    producer = deployment.producer()
    assert producer.predict("weightless", "a") == "A"
    (directory / "mended").unlink()
    (worker,) = deployment.workers
    for child in worker.children():
        child.kill()
    wait_until(lambda: lives(deployment)["weightless@1"].state == "failed", "it is noticed")
    pending = producer.submit("weightless", "b")  # the producer knows the card
    assert producer.predict("warm", "c") == "C"
    assert not pending.done()
    (directory / "mended").touch()
    for child in worker.children():
        child.kill()
    assert pending.result(30) == "B"


def test_workers_that_were_killed_are_forgotten_by_the_next(deployment: Deployment) -> None:
    (deployment.directory / "weights").touch()
    start(deployment, "solo")
    wait_until(lambda: lives(deployment), "it says so")
    deployment.workers[0].kill()
    space = KeySpace(deployment.settings.namespace)
    with deployment.redis() as cache:
        (dead,) = cache.smembers(space.workers())
        wait_until(lambda: not cache.exists(space.worker_card(dead.decode())), "its card lapses")
        start(deployment, "solo")
        wait_until(lambda: lives(deployment), "the next says so")
        assert dead not in cache.smembers(space.workers())
        told = json.dumps([member.decode() for member in cache.smembers(space.workers())])
        deployment.workers[1].terminate()
        deployment.workers[1].wait()
        wait_until(lambda: not cache.smembers(space.workers()), f"who ends forgets itself: {told}")


@pytest.mark.parametrize("how", ["--serve", "FORESEEN_SERVE", "-Q"])
def test_chosen_models_on_a_worker_of_their_own(deploy: Callable[..., Deployment], how: str) -> None:
    """Such as those that need a GPU; whoever is asked for the others never sees them."""
    deployment = deploy(heartbeat_s=0.3)
    options = {
        "--serve": {"arguments": ("--serve", "echo, slow@1")},
        "FORESEEN_SERVE": {"FORESEEN_SERVE": "echo,slow"},
        "-Q": {"arguments": ("-Q", "foreseen.echo@1,foreseen.slow@1")},
    }[how]
    deployment.start_worker("solo", **options)  # type: ignore[arg-type]
    wait_until(lambda: lives(deployment), "it says what it serves")
    assert sorted(lives(deployment)) == ["echo@1", "slow@1"]
    producer = deployment.producer(model_wait_s=0.5)
    assert producer.predict("slow", {"value": 1})["value"] == 1
    with pytest.raises(ModelNotServed):
        producer.predict("wide", {"value": 1})


def test_a_worker_ends_that_is_to_serve_what_there_is_not(deploy: Callable[..., Deployment]) -> None:
    worker = deploy().start_worker("solo", arguments=("--serve", "ehco"), wait=False)
    assert worker.wait() == 1
    assert "ehco is to be served, and was not found: there is slow@1" in worker.tail()


def test_processes_that_are_started_anew_instead_of_forked(deployment: Deployment) -> None:
    """For what survives no fork; they know of their worker from their environment."""
    (deployment.directory / "weights").touch()
    python_path = f"{deployment.directory}:{deployment.environment['PYTHONPATH']}"
    arguments = ("--pool-start-method", "spawn", "--serve", "warm,weightless")
    worker = deployment.start_worker(arguments=arguments, PYTHONPATH=python_path, HERE=str(deployment.directory))
    producer = deployment.producer(model_wait_s=30.0)
    assert [producer.predict("warm", text) for text in "abc"] == ["A", "B", "C"]
    assert sorted(lives(deployment)) == ["warm@1", "weightless@1"]
    wait_until(lambda: lives(deployment)["weightless@1"].state == "failed", "what failed there is known")
    before = {int(pid) for pid, text in calls(deployment) if text in "abc"}
    for pid in before:
        worker.kill_child(pid)
    assert producer.predict("warm", "d") == "D"
    assert int(calls(deployment)[-1][0]) not in before
