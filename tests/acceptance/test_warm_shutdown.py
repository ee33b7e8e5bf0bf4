"""SIGTERM in mid-computation: what runs is finished and answered, what is queued is another worker's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from acceptance.harness import POOLS, Deployment, Pool, wait_until

pytestmark = pytest.mark.acceptance

_LEASE_S = 1.0


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_is_asked_to_stop_finishes_what_it_computes(
    deploy: Callable[..., Deployment], pool: Pool
) -> None:
    deployment = deploy(forked=False, lease_s=_LEASE_S)
    leaving = deployment.start_worker(pool, concurrency=1)
    producer = deployment.producer()
    request = {"value": "running", "wait_for": str(deployment.gate("go"))}
    running = producer.submit("slow", request)
    deployment.wait_for_computations("running")
    queued = [producer.submit("slow", {"value": index}) for index in range(3)]
    staying = deployment.start_worker(pool, concurrency=1, wait=False)

    leaving.terminate()
    wait_until(lambda: leaving.logged("Warm shutdown"), "it has heard the signal")
    staying.wait_ready()
    assert [pending.result(30)["value"] for pending in queued] == [0, 1, 2]
    assert {deployment.worker_of(one.pid) for index in range(3) for one in deployment.computations(index)} == {staying}

    # It computes on for longer than its lease: somebody must still renew it, else the other worker begins as well.
    lease_ms = int(deployment.flight(request)["lease"])
    wait_until(lambda: int(deployment.flight(request)["lease"]) > lease_ms + 2000 * _LEASE_S, "its lease is renewed")
    assert leaving.is_running
    assert not running.done()
    deployment.open_gate("go")
    assert running.result(30)["value"] == "running"
    assert leaving.wait() == 0
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")
    assert len(deployment.computations("running")) == 1
