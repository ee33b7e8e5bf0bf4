"""A push that reaches nobody: whoever joined finds the outcome, kept or not, as soon as the inbox is back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import pytest
from acceptance.harness import Deployment, wait_until
from acceptance.probes import deafened, in_threads, keys_without_expiry, kill_subscribers, statistics

pytestmark = pytest.mark.acceptance

#: Long enough that an answer which comes promptly did not wait for a lease to end.
LEASE_S: Final = 20.0
PROMPT_S: Final = LEASE_S / 2

each_model = pytest.mark.parametrize("model", ["slow", "unkept"])
each_size = pytest.mark.parametrize("pad", [10, 200_000], ids=["small", "only the name travels"])


@each_model
@each_size
def test_the_inbox_killed_again_and_again_while_the_model_finishes(
    deploy: Callable[..., Deployment], model: str, pad: int
) -> None:
    deployment = deploy(lease_s=LEASE_S)
    deployment.start_worker()
    producer = deployment.producer()
    request = {"value": "pushed", "pad": pad, "wait_for": str(deployment.gate("go"))}
    pending = producer.submit(model, request)
    deployment.wait_for_computations("pushed")

    assert kill_subscribers(deployment) == 1
    deployment.open_gate("go")
    kills = 1
    began = time.monotonic()
    while not statistics(deployment, f"{model}@1")["computed"]:
        kills += kill_subscribers(deployment)
        assert time.monotonic() - began < LEASE_S
    kills += kill_subscribers(deployment)
    finished = time.monotonic()
    assert len(pending.result(LEASE_S)["pad"]) == pad
    assert time.monotonic() - finished < PROMPT_S
    assert len(deployment.computations("pushed")) == 1
    assert keys_without_expiry(deployment) == []


@each_model
@each_size
def test_a_push_that_nobody_heard(deploy: Callable[..., Deployment], model: str, pad: int) -> None:
    deployment = deploy(lease_s=LEASE_S)
    deployment.start_worker()
    producer = deployment.producer()
    gate = deployment.gate("go")
    requests = [{"value": index % 5, "pad": pad, "wait_for": str(gate)} for index in range(10)]
    producer.predict(model, {"value": "known"})
    pendings = [producer.submit(model, request) for request in requests]

    with deafened(producer, deployment) as hear_again:
        gate.touch()
        wait_until(lambda: statistics(deployment, f"{model}@1")["computed"] == 6, "all of it is computed")
        assert not any(pending.done() for pending in pendings)
        hear_again()
        began = time.monotonic()
        assert [pending.result(LEASE_S)["value"] for pending in pendings] == [index % 5 for index in range(10)]
        assert time.monotonic() - began < PROMPT_S
    assert len(deployment.computations()) == 6


def test_failures_that_nobody_heard(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=LEASE_S)
    deployment.start_worker()
    producer = deployment.producer()
    gate = deployment.gate("go")
    producer.predict("slow", {"value": "known"})
    pendings = [
        producer.submit(model, {"value": "bad", "raise": "boom", "wait_for": str(gate)}) for model in ("slow", "unkept")
    ]
    with deafened(producer, deployment) as hear_again:
        gate.touch()
        for model in ("slow@1", "unkept@1"):
            wait_until(lambda each=model: statistics(deployment, each)["failed"] == 1, "it has failed")
        hear_again()
        for pending in pendings:
            with pytest.raises(Exception, match="ValueError: boom"):
                pending.result(PROMPT_S)


@each_model
def test_a_hundred_waiters_of_four_producers_lose_their_inboxes_over_and_over(
    deploy: Callable[..., Deployment], model: str
) -> None:
    """The kills come while joins, pushes and looks are in the air."""
    deployment = deploy(lease_s=LEASE_S)
    deployment.start_worker("threads", 8)
    producers = [deployment.producer() for _ in range(4)]
    for producer in producers:
        producer.predict(model, {"value": "known"})
    stop = False

    def wait(index: int) -> object:
        if index == 100:
            kills = 0
            while not stop:
                kills += kill_subscribers(deployment)
                time.sleep(0.02)  # an inbox that never comes back hears nothing: let it live for a moment
            return kills
        value = index % 25
        return producers[index % 4].predict(model, {"value": value, "sleep_s": 0.01 * value}, timeout=LEASE_S)["value"]

    def finish(index: int) -> object:
        nonlocal stop
        try:
            return wait(index)
        finally:
            finished.append(index)
            stop = len(finished) >= 100

    finished: list[int] = []
    outcomes = in_threads(101, finish, 2 * LEASE_S)
    assert outcomes[:100] == [index % 25 for index in range(100)]
    assert outcomes[100] >= 4
