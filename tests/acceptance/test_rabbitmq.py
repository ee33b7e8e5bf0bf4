"""RabbitMQ as the broker: what the tests with Redis show, and a restart under load that loses nothing."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from acceptance.harness import DEADLINE_S, Deployment, wait_until
from acceptance.rabbitmq import MISSING, RabbitMQ
from served.record import digest_of

from foreseen.cli.models import read_depths
from foreseen.keys import KeySpace
from producer import TooManyAttempts

pytestmark = [pytest.mark.acceptance, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

namespaces = itertools.count(1)
#: Submits until it is told to stop; says what was acknowledged, and is killed.
SUBMITTER = """
accepted, stopping = [], threading.Event()

def ask(n, producer):
    call = 0
    while not stopping.is_set():
        value = f"{n} {call}"
        try:
            producer.submit("slow", {"value": value})
        except (BrokerUnavailable, CacheUnavailable):
            time.sleep(0.02)
        else:
            accepted.append(value)
            call += 1
            if call % 10 == 0:
                say(call)
            time.sleep(0.005)

producer = Producer()
threads = [threading.Thread(target=ask, args=(n, producer)) for n in range(3)]
for thread in threads:
    thread.start()
hear()
stopping.set()
for thread in threads:
    thread.join()
say(accepted)
os._exit(0)
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    with RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture
def on_rabbitmq(broker: RabbitMQ, deploy: Callable[..., Deployment]) -> Callable[..., Deployment]:
    """Return what makes a deployment with that broker, and queues of its own."""

    def make(**settings: Any) -> Deployment:
        deployment = deploy(namespace=f"rabbit{next(namespaces)}", **settings)
        deployment.use_broker(broker.url)
        return deployment

    return make


def waiting(deployment: Deployment, model_id: str = "slow@1") -> int | None:
    """Return how many messages wait in a model's queue; those that were taken and not acked are not counted."""
    (depth,), _ = read_depths(deployment.settings, [KeySpace(deployment.settings.namespace).queue(model_id)])
    return depth


def test_one_and_many_are_computed_once(on_rabbitmq: Callable[..., Deployment]) -> None:
    deployment = on_rabbitmq()
    deployment.start_worker("prefork", 2)
    producer = deployment.producer()
    assert producer.predict("slow", {"value": "one"})["value"] == "one"
    pendings = producer.submit_many("slow", [{"value": value} for value in range(100)])
    assert [pending.result(DEADLINE_S)["value"] for pending in pendings] == [*range(100)]
    assert [each["value"] for each in producer.map("slow", [{"value": value} for value in range(120)])] == [*range(120)]
    assert len(deployment.computations()) == 121


def test_the_most_urgent_is_computed_first(on_rabbitmq: Callable[..., Deployment]) -> None:
    deployment = on_rabbitmq()
    deployment.start_worker("solo")
    gate, producer = str(deployment.gate("all")), deployment.producer()
    pendings = [producer.submit("slow", {"value": "first", "wait_for": gate}, priority=4)]
    deployment.wait_for_computations("first")
    # The worker takes one in reserve, whatever comes later.
    pendings.append(producer.submit("slow", {"value": "reserve", "wait_for": gate}, priority=4))
    wait_until(lambda: waiting(deployment) == 0, "it has taken it")
    for value, priority in (("raised", 0), ("low", 0), ("middle", 4), ("high", 9)):
        pendings.append(producer.submit("slow", {"value": value, "wait_for": gate}, priority=priority))
    producer.submit("slow", {"value": "raised", "wait_for": gate}, priority=9)
    deployment.open_gate("all")
    for pending in pendings:
        pending.result(DEADLINE_S)
    begun = sorted((deployment.computations(value)[0].at, value) for value in ("raised", "low", "middle", "high"))
    assert [value for _, value in begun] == ["high", "raised", "middle", "low"]


def test_a_worker_is_killed_and_another_takes_over(on_rabbitmq: Callable[..., Deployment]) -> None:
    deployment = on_rabbitmq(lease_s=1.0)
    worker = deployment.start_worker("threads", 1)
    producer = deployment.producer()
    gate = str(deployment.gate("go"))
    running = producer.submit("slow", {"value": "running", "wait_for": gate})
    deployment.wait_for_computations("running")
    queued = producer.submit("slow", {"value": "queued"})
    worker.kill()
    deployment.open_gate("go")
    deployment.start_worker("threads", 1)
    assert running.result(DEADLINE_S)["value"] == "running"
    assert queued.result(DEADLINE_S)["value"] == "queued"
    assert len(deployment.computations("running")) == 2


def test_what_kills_leaves_a_dead_letter(on_rabbitmq: Callable[..., Deployment]) -> None:
    deployment = on_rabbitmq(lease_s=1.0, max_attempts=2)
    deployment.start_worker("prefork", 1)
    stone = deployment.gate("stone")
    pending = deployment.producer().submit("slow", {"value": "poison", "die_unless": str(stone)})
    with pytest.raises(TooManyAttempts):
        pending.result(2 * DEADLINE_S)

    def dead(*arguments: str) -> str:
        command = [sys.executable, "-m", "foreseen.cli", "dead", *arguments]
        return subprocess.run(
            command, env=deployment.environment, capture_output=True, text=True, timeout=DEADLINE_S, check=True
        ).stdout

    (letter,) = json.loads(dead("list", "--json"))
    assert letter["key"] == pending.key
    stone.touch()
    dead("retry", pending.key.rpartition(":")[2][:8])
    wait_until(
        lambda: deployment.producer().peek("slow", {"value": "poison", "die_unless": str(stone)}), "it is computed"
    )
    assert json.loads(dead("list", "--json")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_broker_restarts_under_load(
    broker: RabbitMQ, on_rabbitmq: Callable[..., Deployment], number: signal.Signals
) -> None:
    deployment = on_rabbitmq(lease_s=1.0)
    deployment.start_worker("threads", 4)
    producer = deployment.producer()
    running = producer.submit("slow", {"value": "running", "wait_for": str(deployment.gate("go"))})
    deployment.wait_for_computations("running")
    submitter = deployment.start_producer(SUBMITTER)
    for _ in range(9):
        submitter.hear()
    broker.end(number)
    broker.start()
    for _ in range(9):
        while not isinstance(submitter.hear(2 * DEADLINE_S), int):
            pass
    submitter.say("stop")
    while not isinstance(accepted := submitter.hear(2 * DEADLINE_S), list):
        pass
    submitter.finish()
    assert len(accepted) > 100
    # Whoever submitted is gone: nobody looks after these any more but the broker.
    wanted = {digest_of(value) for value in accepted}
    wait_until(
        lambda: wanted <= {computation.digest for computation in deployment.computations()},
        "none is lost",
        2 * DEADLINE_S,
    )
    # It was delivered again while it ran: the copies that stand in for it compute nothing.
    wait_until(lambda: waiting(deployment) == 0, "the queue is empty")
    deployment.open_gate("go")
    assert running.result(DEADLINE_S)["value"] == "running"
    assert len(deployment.computations("running")) == 1
    assert producer.predict("slow", {"value": "after"})["value"] == "after"
