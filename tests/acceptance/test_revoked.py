"""An operator's stop, in Flower or with Celery's own commands, ends the flight for everybody who waits, and stays."""

from __future__ import annotations

import itertools
import json
import urllib.error
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from acceptance.flower import Flower, flower_over
from acceptance.harness import Deployment, wait_until
from celery import Celery

from producer import PendingPrediction, Revoked

pytestmark = pytest.mark.acceptance


@pytest.fixture
def deployment(deploy: Callable[..., Deployment]) -> Deployment:
    return deploy(lease_s=1.0)


@pytest.fixture
def revoke(deployment: Deployment) -> Callable[..., None]:
    """Revoke a task as `celery control` does."""
    app = Celery(broker=deployment.settings.broker_url)

    def revoke(pending: PendingPrediction[Any], **options: Any) -> None:
        assert pending.task_id is not None
        app.control.revoke(pending.task_id, **options)

    return revoke


def test_a_running_task_ends_for_all_who_wait_and_is_not_tried_again(
    deployment: Deployment, revoke: Callable[..., None]
) -> None:
    worker = deployment.start_worker("prefork", 1)
    producer, other = deployment.producer(), deployment.producer()
    request = {"value": "endless", "wait_for": str(deployment.gate("never"))}
    pending, follower = producer.submit("slow", request), other.submit("slow", request)
    deployment.wait_for_computations("endless")
    revoke(pending, terminate=True, signal="SIGKILL")
    for each in (pending, follower):
        with pytest.raises(Revoked, match="slow@1"):
            each.result(20)
    wait_until(lambda: deployment.unsettled_messages() == 0, "the message is acked")
    assert producer.predict("slow", {"value": "next"})["value"] == "next"  # the pool has a new process
    assert len(deployment.computations("endless")) == 1
    deployment.open_gate("never")
    assert producer.predict("slow", request)["value"] == "endless"  # who asks anew is answered
    assert worker.is_running


def test_a_queued_task_ends_when_its_turn_comes(deployment: Deployment, revoke: Callable[..., None]) -> None:
    deployment.start_worker("prefork", 1)
    producer = deployment.producer()
    gate = str(deployment.gate("busy"))
    busy = [producer.submit("slow", {"value": n, "wait_for": gate}) for n in range(2)]
    deployment.wait_for_computations(0)
    queued = producer.submit("slow", {"value": "queued"})
    revoke(queued)
    deployment.open_gate("busy")
    with pytest.raises(Revoked):
        queued.result(20)
    assert [each.result(20)["value"] for each in busy] == [0, 1]
    assert deployment.computations("queued") == []


def test_every_item_of_its_message_ends(deployment: Deployment, revoke: Callable[..., None]) -> None:
    deployment.start_worker("prefork", 1)
    producer = deployment.producer()
    gate = str(deployment.gate("batch"))
    pendings = producer.submit_many("slow", [{"value": n, "wait_for": gate} for n in range(4)])
    assert len({pending.task_id for pending in pendings}) == 1
    deployment.wait_for_computations(0)
    revoke(pendings[0], terminate=True, signal="SIGKILL")
    for pending in pendings:
        with pytest.raises(Revoked):
            pending.result(20)


@pytest.fixture
def flower(deployment: Deployment) -> Iterator[Flower]:
    with flower_over(deployment) as flower:
        yield flower


def test_flower_shows_model_and_short_key_and_never_the_input_and_its_button_revokes(
    deployment: Deployment, flower: Flower
) -> None:
    deployment.start_worker("prefork", 1)
    producer = deployment.producer()
    wait_until(flower.answers, "Flower answers and knows the worker")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        flower.ask("/api/workers", login=False)

    request = {"value": "a secret of the customer's", "wait_for": str(deployment.gate("never"))}
    numbers = itertools.count()

    def is_heard() -> bool:
        producer.predict("slow", {"value": next(numbers)})
        return bool(flower.ask("/api/tasks"))

    wait_until(is_heard, "Flower has turned the worker's events on")
    pending = producer.submit("slow", request)
    assert pending.task_id is not None
    deployment.wait_for_computations(request["value"])
    wait_until(lambda: flower.task(pending.task_id or "").get("state") == "STARTED", "Flower sees the task")
    shown = flower.task(pending.task_id)
    digest = pending.key.partition(":")[2]
    assert shown["name"] == "slow@1"
    assert shown["args"] == f"items: 1, keys: {digest[:8]}, source: computed"
    assert "secret" not in json.dumps(shown)

    flower.ask(f"/api/task/revoke/{pending.task_id}?terminate=true&signal=SIGKILL", "POST")
    with pytest.raises(Revoked):
        pending.result(20)
    wait_until(lambda: flower.task(pending.task_id or "").get("state") == "REVOKED", "Flower says so")
