"""What is too much: a computation that does not end, a queue that only grows; and what is worth another try."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from acceptance.harness import POOLS, Deployment, Pool, wait_until

from producer import PredictionTimeout, Producer, QueueFull, TimeLimitExceeded, TooManyAttempts

pytestmark = pytest.mark.acceptance

_LEASE_S = 1.0


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
def test_an_item_over_its_limit_is_ended_and_told_and_takes_no_other_along(
    deploy: Callable[..., Deployment], pool: Pool
) -> None:
    """In a thread it cannot be ended while it waits in the system: it is answered for, and the thread is lost."""
    deployment = deploy(lease_s=_LEASE_S)
    worker = deployment.start_worker(pool, concurrency=2)
    producer = deployment.producer()
    sleep_s = 5 if pool == "threads" else 600
    requests = [{"value": 0}, {"value": "slow", "sleep_s": sleep_s}, {"value": 2}]
    first, slow, last = producer.submit_many("limited", requests)
    with pytest.raises(TimeLimitExceeded, match=r"ended after 1 s"):
        slow.result(30)
    assert (first.result(30)["value"], last.result(30)["value"]) == (0, 2)
    assert worker.is_running
    assert producer.predict("slow", {"value": "fine"})["value"] == "fine"
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")
    if pool == "threads":
        assert worker.logged("cannot be ended in a thread") == 2  # in company, then alone


def test_a_process_that_does_not_come_back_to_python_is_ended(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=_LEASE_S, max_attempts=2)
    worker = deployment.start_worker(concurrency=1)
    with pytest.raises(TooManyAttempts, match="exitcode 1"):
        deployment.producer().predict("limited", {"value": "held", "hold_s": 600})
    assert len(deployment.computations("held")) == 2
    assert worker.logged("_suffer")  # where it was held up
    assert deployment.producer().predict("limited", {"value": "fine"})["value"] == "fine"


# --- queues -----------------------------------------------------------------------------------------------------------


class _Full:
    """A deployment whose model holds up what it takes, and whose queue takes no more."""

    def __init__(self, deploy: Callable[..., Deployment]) -> None:
        self.deployment = deploy(lease_s=_LEASE_S)
        self.deployment.start_worker(concurrency=1)
        self.producer = self.deployment.producer()
        self.accepted = [self.submit(0)]
        self.deployment.wait_for_computations(0)
        with pytest.raises(QueueFull, match="5 messages wait for bounded@1"):
            self.accepted.extend(map(self.submit, range(1, 20)))  # which keeps those before the error

    def request(self, value: object) -> dict[str, Any]:
        return {"value": value, "wait_for": str(self.deployment.gate("all"))}

    def submit(self, value: object, **settings: Any) -> Any:
        producer = self.deployment.producer(**settings) if settings else self.producer
        return producer.submit("bounded", self.request(value))

    def go_on(self) -> None:
        self.deployment.open_gate("all")


def test_a_full_queue_refuses_at_once_and_what_it_took_is_computed(deploy: Callable[..., Deployment]) -> None:
    full = _Full(deploy)
    assert 6 <= len(full.accepted) <= 8  # five wait; one is computed, and a worker takes one in reserve
    refused = full.request(len(full.accepted))
    assert full.deployment.flight(refused, "bounded") == {}  # nobody is to follow what was not sent
    many = full.producer.submit_many("bounded", [full.request(f"many {n}") for n in range(3)])
    assert [type(pending.exception(10)) for pending in many] == [QueueFull] * 3
    full.go_on()
    assert [pending.result(30)["value"] for pending in full.accepted] == [*range(len(full.accepted))]
    assert full.producer.predict("bounded", refused)["value"] == refused["value"]


def test_a_producer_that_buffers_waits_for_room(deploy: Callable[..., Deployment]) -> None:
    full = _Full(deploy)
    threading.Timer(0.5, full.go_on).start()
    assert full.submit("late", buffer_s=30.0).result(30)["value"] == "late"


def test_it_waits_no_longer_than_its_caller(deploy: Callable[..., Deployment]) -> None:
    full = _Full(deploy)
    began = time.monotonic()
    with pytest.raises(QueueFull):
        full.deployment.producer(buffer_s=60.0).predict("bounded", full.request("late"), timeout=0.5)
    assert time.monotonic() - began < 30
    full.go_on()


def test_who_joined_what_was_refused_is_not_stranded(deploy: Callable[..., Deployment]) -> None:
    full = _Full(deploy)
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(full.submit, "shared", buffer_s=1.0)
        wait_until(lambda: full.deployment.flight(full.request("shared"), "bounded"), "the leader's flight is open")
        follower: Producer = full.deployment.producer()
        followed = pool.submit(follower.predict, "bounded", full.request("shared"), timeout=60)
        with pytest.raises(QueueFull):
            follower.submit("bounded", full.request("shared"))  # nothing was sent for it: a detached one does, at once
        with pytest.raises(QueueFull):
            leader.result(30)
        full.go_on()
        assert followed.result(60)["value"] == "shared"


# --- another try ------------------------------------------------------------------------------------------------------


def test_what_fails_for_the_moment_is_tried_again_by_the_same_delivery(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=0.5)  # the pauses together are longer than a few leases
    deployment.start_workers(2, concurrency=1)
    producer = deployment.producer()
    there = deployment.gate("there")
    pending = producer.submit("flaky", {"value": "a", "there": str(there), "nonce": True})
    tries = deployment.wait_for_computations("a", 5)
    assert len({each.pid for each in tries}) == 1  # held: nobody has taken over
    deployment.open_gate("there")
    assert pending.result(30)["value"] == "a"


def test_a_deadline_ends_the_tries(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=_LEASE_S)
    deployment.start_worker(concurrency=1)
    request = {"value": "a", "there": str(deployment.gate("never"))}
    with pytest.raises(Exception, match="away"):
        deployment.producer().predict("flaky", request, deadline_s=1.0)
    assert 1 < len(deployment.computations("a")) < 10


# --- who wants it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
def test_a_running_computation_is_told_that_the_last_waiter_has_left(
    deploy: Callable[..., Deployment], pool: Pool
) -> None:
    deployment = deploy(lease_s=_LEASE_S)
    deployment.start_worker(pool, concurrency=1)
    producer = deployment.producer()
    request = {"value": "a", "until": str(deployment.gate("until"))}
    with pytest.raises(PredictionTimeout):
        producer.predict("attentive", request, timeout=0.3)
    deployment.wait_for_computations("told")
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")
    assert deployment.flight(request, "attentive") == {}
    deployment.open_gate("until")
    assert producer.predict("attentive", request)["value"] == "a"


def test_while_one_waits_it_goes_on(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=_LEASE_S)
    deployment.start_worker(concurrency=1)
    producer = deployment.producer()
    request = {"value": "a", "until": str(deployment.gate("until"))}
    with ThreadPoolExecutor(1) as pool:
        stays = pool.submit(producer.predict, "attentive", request)
        with pytest.raises(PredictionTimeout):
            deployment.producer().predict("attentive", request, timeout=1.0)
        time.sleep(0.5)  # longer than it takes to be told
        deployment.open_gate("until")
        assert stays.result(30)["value"] == "a"
    assert not deployment.computations("told")
