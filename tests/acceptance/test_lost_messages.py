"""A message that is lost on its way: whoever waits gets the answer all the same."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from acceptance.harness import Deployment, wait_until
from acceptance.probes import in_threads, keys_without_expiry, queue_keys, queued, remove_messages

from producer import PendingPrediction

pytestmark = pytest.mark.acceptance


def test_waiters_get_their_answers_though_every_message_was_removed(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=1.0)
    worker = deployment.start_worker()
    producer = deployment.producer()
    producer.predict("slow", {"value": "known"})
    worker.terminate()
    worker.wait()

    submitted = [producer.submit("slow", {"value": f"submitted {index}"}) for index in range(3)]
    answers: list[object] = []
    waiting = threading.Thread(
        target=lambda: answers.extend(
            in_threads(3, lambda index: producer.predict("slow", {"value": f"waited {index}"}, timeout=30))
        )
    )
    waiting.start()
    wait_until(lambda: queued(deployment) >= 6, "six messages are in the queue")
    assert remove_messages(deployment) >= 6

    deployment.start_worker()
    assert [pending.result(30)["value"] for pending in submitted] == [f"submitted {index}" for index in range(3)]
    waiting.join(30)
    assert [answer["value"] for answer in answers] == [f"waited {index}" for index in range(3)]  # type: ignore[index]
    assert len(deployment.computations()) == 7
    assert keys_without_expiry(deployment) == []


def test_a_message_removed_from_a_queue_that_moves_on(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=1.0)
    deployment.start_worker("solo")
    producer = deployment.producer()
    gate = deployment.gate("first")
    first = producer.submit("slow", {"value": "first", "wait_for": str(gate)})
    deployment.wait_for_computations("first")
    pendings = [producer.submit("slow", {"value": index}) for index in range(20)]
    wait_until(lambda: queued(deployment) >= 15, "the messages are in the queue")  # but those that the worker reserves
    with deployment.redis(0) as broker:
        lists = [key for key in queue_keys(deployment, "slow@1") if broker.llen(key)]
        assert len(lists) == 1
        middle = broker.lindex(lists[0], 7)
        assert middle is not None
        assert broker.lrem(lists[0], 1, middle) == 1

    gate.touch()
    assert first.result(20)["value"] == "first"
    assert [pending.result(20)["value"] for pending in pendings] == list(range(20))
    assert len(deployment.computations()) == 21


def test_a_message_that_a_worker_took_and_never_recorded(deploy: Callable[..., Deployment]) -> None:
    """A worker takes a message and kombu records it as unacked in two steps; a kill in between loses it."""
    deployment = deploy(lease_s=1.0)
    taker = deployment.start_worker("solo")
    producer = deployment.producer()
    producer.predict("slow", {"value": "known"})

    def is_taken() -> bool:
        """Stop the worker while it waits in BRPOP: the server sends it what comes, and it does no more with it."""
        with deployment.redis(0) as broker:
            wait_until(lambda: dict(broker.info("clients"))["blocked_clients"] == 1, "the worker waits for messages")
        taker.stop_process()
        pendings.append(producer.submit("slow", {"value": len(pendings)}))
        if queued(deployment) == 0:
            return True
        taker.continue_process()  # its wait had just ended
        pendings[-1].result(20)
        return False

    pendings: list[PendingPrediction] = []
    wait_until(is_taken, "the stopped worker's connection takes a message")
    taker.kill()
    with deployment.redis(0) as broker:
        assert broker.hlen("unacked") == 0

    deployment.start_worker("solo")
    value = len(pendings) - 1
    assert pendings[-1].result(30)["value"] == value
    assert len(deployment.computations(value)) == 1


def test_a_follower_in_another_process_recovers_what_the_leader_lost(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=1.0, heartbeat_s=20.0)  # the model stays known while nobody serves it
    worker = deployment.start_worker()
    producer = deployment.producer()
    producer.predict("slow", {"value": "known"})
    worker.terminate()
    worker.wait()
    leader = deployment.start_producer(
        """
producer = Producer()
say(producer.submit("slow", {"value": "shared"}).key)
os._exit(0)
"""
    )
    key = leader.hear()
    leader.wait()
    assert remove_messages(deployment) == 1

    follower = producer.submit("slow", {"value": "shared"})
    assert follower.key == key
    deployment.start_worker()
    assert follower.result(30)["value"] == "shared"
    assert len(deployment.computations("shared")) == 1
