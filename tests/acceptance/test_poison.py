"""An input whose computation kills its process is stopped, and takes no other input along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from acceptance.harness import POOLS, Deployment, Pool, wait_until
from acceptance.probes import Supervisor

from producer import TooManyAttempts

pytestmark = pytest.mark.acceptance

_MAX_ATTEMPTS = 3

_WAITER = """
with Producer() as producer:
    try:
        say(producer.predict("slow", arguments["request"], timeout=60))
    except TooManyAttempts as error:
        say(type(error).__name__)
"""


def test_it_fails_for_everyone_who_waits_after_the_attempts_allowed(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0, max_attempts=_MAX_ATTEMPTS)
    deployment.start_workers(2, concurrency=1)
    request = {"value": "poison", "die": True, "wait_for": str(deployment.gate("never"))}
    waiting = [deployment.start_producer(_WAITER, request=request) for _ in range(2)]
    assert [process.finish(60) for process in waiting] == [["TooManyAttempts"], ["TooManyAttempts"]]
    assert len(deployment.computations("poison")) == _MAX_ATTEMPTS
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")
    assert len(deployment.computations("poison")) == _MAX_ATTEMPTS
    assert deployment.producer().predict("slow", {"value": "fine"})["value"] == "fine"


def test_in_a_batch_it_fails_alone(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0, max_attempts=_MAX_ATTEMPTS)
    deployment.start_workers(2, concurrency=1)
    requests = [{"value": index, "die": True} if index == 3 else {"value": index} for index in range(6)]
    producer = deployment.producer()
    pendings = producer.submit_many("slow", requests)
    assert len({pending.task_id for pending in pendings}) == 1  # one message

    for index, pending in enumerate(pendings):
        if index == 3:
            with pytest.raises(TooManyAttempts):
                pending.result(60)
        else:
            assert pending.result(60)["value"] == index
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")
    assert len(deployment.computations(3)) == 1 + _MAX_ATTEMPTS  # in company, then alone
    for index in (0, 1, 2, 4, 5):
        assert len(deployment.computations(index)) <= 2, index


@pytest.mark.parametrize(("pool", "how"), [("threads", "die"), ("prefork", "die_with_parent")])
def test_an_input_that_ends_whole_workers_is_stopped_and_takes_no_neighbour_along(
    deploy: Callable[..., Deployment], pool: Pool, how: str
) -> None:
    """Nobody is left who could tell whose input it was: each that was computed there is computed again, by itself."""
    deployment = deploy(lease_s=1.0, visibility_timeout_s=600.0, max_attempts=2)
    neighbours: list[dict[str, Any]] = [{"value": value, "sleep_s": 0.3} for value in range(3)]
    with Supervisor(deployment, pool=pool, concurrency=4) as supervisor:
        producer = deployment.producer(model_wait_s=30)
        pendings = [producer.submit("slow", request) for request in neighbours]
        deployment.wait_for_computations(0)
        poison = producer.submit("slow", {"value": "poison", how: True})
        with pytest.raises(TooManyAttempts, match="its worker ended") as failure:
            poison.result(60)
        assert [pending.result(60)["value"] for pending in pendings] == [0, 1, 2]
        assert producer.predict("slow", {"value": "fine"}, timeout=60)["value"] == "fine"
        assert failure.value.details["deaths"] == 2
        assert len(deployment.computations("poison")) == supervisor.starts - 1 == 3  # in company, then twice alone
        assert max(len(deployment.computations(value)) for value in range(3)) <= 2


def test_a_model_that_keeps_the_interpreter_for_several_leases_is_not_condemned(
    deploy: Callable[..., Deployment],
) -> None:
    """Its worker is silent, and another takes over; but nobody has died."""
    deployment = deploy(lease_s=0.5, max_attempts=1)
    deployment.start_workers(3, "threads", concurrency=1)
    assert deployment.producer().predict("slow", {"value": "a", "hold_s": 2.0}, timeout=60)["value"] == "a"
    assert len(deployment.computations("a")) > 2  # taken over twice, else it was no test


@pytest.mark.parametrize("pool", POOLS)
def test_an_input_that_runs_out_of_memory_counts_as_a_death_each_time_and_leaves_the_worker_serving(
    deploy: Callable[..., Deployment], pool: str
) -> None:
    deployment = deploy(lease_s=2.0, max_attempts=_MAX_ATTEMPTS)
    worker = deployment.start_worker(pool, concurrency=1)
    with pytest.raises(TooManyAttempts):
        deployment.producer().predict("slow", {"value": "large", "exhaust": True}, timeout=60)
    assert len(deployment.computations("large")) == _MAX_ATTEMPTS
    assert deployment.producer().predict("slow", {"value": "fine"})["value"] == "fine"
    assert worker.is_running
