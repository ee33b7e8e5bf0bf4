"""Processes are killed in mid-computation while another worker lives: nobody's prediction is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import pytest
from acceptance.harness import DEADLINE_S, Deployment, Worker, wait_until

pytestmark = pytest.mark.acceptance

Victim: TypeAlias = Literal["child", "worker"]

_LEASE_S = 2.0
_COMPUTE_S = 1.0
#: Added to what the protocol promises, for what it leaves out: the parent looks for dead children every half second, a
#: fresh child forks and loads, a waiter looks 20 ms late, and two cores are shared with whatever else runs.
_TOLERANCE_S = 2.0

_WAITERS = """
def wait():
    answer = producer.predict("slow", arguments["request"], timeout=30)
    say({"answer": answer, "at": time.time()})

with Producer() as producer:
    threads = [threading.Thread(target=wait) for _ in range(3)]
    barrier()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""

_SUBMIT = """
with Producer() as producer:
    say(producer.submit("slow", arguments["request"]).source)
"""


def _strike(deployment: Deployment, victim: Victim, value: object) -> tuple[Worker, float]:
    """Kill who computes the value; return that worker, and when (Unix time in seconds)."""
    (running,) = deployment.wait_for_computations(value)
    worker = deployment.worker_of(running.pid)
    if victim == "child":
        worker.kill_child(running.pid)
    else:
        worker.kill()
    return worker, time.time()


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_every_waiter_is_answered_within_a_lease_plus_the_computation(
    deploy: Callable[..., Deployment], victim: Victim
) -> None:
    deployment = deploy(lease_s=_LEASE_S, visibility_timeout_s=2 * _LEASE_S)  # short: the late redelivery comes too
    deployment.start_workers(2, concurrency=1)
    request = {"value": victim, "sleep_s": _COMPUTE_S, "nonce": True}
    waiting = [deployment.start_producer(_WAITERS, request=request) for _ in range(2)]
    for process in waiting:
        assert process.hear() == "ready"
    for process in waiting:
        process.say("go")
    wait_until(lambda: deployment.joiners(request, "w") == len(waiting), "both processes wait")

    _, killed_at = _strike(deployment, victim, victim)
    told: list[dict[str, Any]] = [answer for process in waiting for answer in process.finish()]

    assert len(told) == 6
    assert all(each["answer"] == told[0]["answer"] for each in told)
    took_s = max(each["at"] for each in told) - killed_at
    print(f"{victim} killed: the last of {len(told)} waiters answered after {took_s:.2f} s")
    assert took_s <= _LEASE_S + _COMPUTE_S + _TOLERANCE_S
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")
    assert len(deployment.computations(victim)) <= 2


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_what_was_submitted_is_computed_though_nobody_waits(deploy: Callable[..., Deployment], victim: Victim) -> None:
    visibility_timeout_s = 2 * _LEASE_S
    deployment = deploy(lease_s=_LEASE_S, visibility_timeout_s=visibility_timeout_s)
    deployment.start_workers(2, concurrency=1)
    request = {"value": victim, "sleep_s": _COMPUTE_S}
    assert deployment.start_producer(_SUBMIT, request=request).finish() == ["computed"]  # and is gone

    _, killed_at = _strike(deployment, victim, victim)
    producer = deployment.producer()
    output = wait_until(lambda: producer.peek("slow", request), "the entry appears", DEADLINE_S)

    took_s = time.time() - killed_at
    print(f"{victim} killed, nobody waits: the entry is there after {took_s:.2f} s")
    assert output["value"] == victim
    redelivered_s = _LEASE_S if victim == "child" else visibility_timeout_s + deployment.restore_interval_s
    assert took_s <= redelivered_s + _COMPUTE_S + _TOLERANCE_S
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")
    assert len(deployment.computations(victim)) == 2
