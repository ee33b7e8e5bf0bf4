"""Whoever dies while ensembles wait: they are answered within their leases, and little is computed twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest
from acceptance.harness import POOLS, Deployment, Pool, Worker, wait_until

pytestmark = pytest.mark.acceptance

_MODELS = ("served.ensembles",)
_LEASE_S = 2.0
_COUNT = 200


def test_a_worker_killed_amid_200_ensembles_costs_none_of_them(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS, lease_s=_LEASE_S, visibility_timeout_s=2 * _LEASE_S)
    workers = deployment.start_workers(2, concurrency=2)
    producer = deployment.producer()
    requests = [{"value": value, "sleep_s": 0.01} for value in range(_COUNT)]
    pendings = [producer.submit("total", request) for request in requests]

    wait_until(lambda: len(deployment.computations()) > _COUNT, "a third of the members is computed")
    waiting = sum(not pending.done() for pending in pendings)
    victim = workers[0]
    victim.kill()
    killed_at = time.time()

    answers = [pending.result(60) for pending in pendings]
    took_s = time.time() - killed_at
    assert [answer["answer"] for answer in answers] == [9.0 * value for value in range(_COUNT)]
    assert all(answer["missing"] == {} for answer in answers)
    assert waiting > _COUNT // 4, "it was killed in the midst"

    counts = Counter((each.model, each.digest) for each in deployment.computations())
    members = {key: count for key, count in counts.items() if key[0] != "noted"}
    again = sum(count - 1 for count in members.values())
    combined_again = sum(count - 1 for key, count in counts.items() if key[0] == "noted")
    print(
        f"{waiting} of {_COUNT} waited when the worker was killed; answered after {took_s:.1f} s; of {len(members)} "
        f"member predictions {again} were computed again, and {combined_again} combinations"
    )
    assert len(members) == 3 * _COUNT
    # Again are only those that the dead worker's two processes were computing just then: a message each, which holds up
    # to eight items of one model, and what they had computed and not told. Those that it only waited for are hits.
    assert again <= 2 * 8
    assert combined_again <= 2 * 8
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled", 60)


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_what_only_waited_in_a_process_that_died_is_begun_again_and_its_members_are_not(
    deploy: Callable[..., Deployment], victim: str
) -> None:
    deployment = deploy(
        models=("served.ensembles:One", "served.ensembles:Two", "served.ensembles:Six"), lease_s=_LEASE_S
    )
    deployment.start_worker(concurrency=3)
    over = deployment.start_worker(concurrency=1, FORESEEN_MODELS="served.ensembles:Total")
    producer = deployment.producer()
    request = {"value": 5, "wait_for": str(deployment.gate("go"))}
    for _ in range(4):  # more often than an input may be computed and end its process
        pending = producer.submit("total", request)
        _wait_until_it_waits(over)
        wait_until(lambda: _named_worker(deployment) == "", "its death would be nobody's fault")
        if victim == "worker":
            over.kill()
            over = deployment.start_worker(concurrency=1, FORESEEN_MODELS="served.ensembles:Total")
        else:
            (child,) = over.children()
            over.log.write_text("")
            over.kill_child(child.pid)
    _wait_until_it_waits(over)
    deployment.open_gate("go")
    assert pending.result(30)["answer"] == 45.0
    assert [len(deployment.computations((name, 5))) for name in ("one", "two", "six")] == [1, 1, 1]
    assert len(deployment.computations(("noted", 45.0))) == 1


def _wait_until_it_waits(worker: Worker) -> None:
    wait_until(lambda: worker.logged("'waiting': 1"), "it waits, and its slot is free")


def _named_worker(deployment: Deployment) -> str | None:
    """Return the worker that the ensemble's flight names, whose death would be put down to its input."""
    with deployment.redis() as client:
        for name in client.scan_iter(f"{deployment.settings.namespace}:f:{{total@*"):
            return (client.hget(name, "worker") or b"").decode()
    return None


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_is_asked_to_stop_hands_back_at_once_what_waits(
    deploy: Callable[..., Deployment], pool: Pool
) -> None:
    deployment = deploy(models=("served.ensembles:One", "served.ensembles:Two", "served.ensembles:Six"), lease_s=20.0)
    deployment.start_worker(concurrency=3)
    leaving = deployment.start_worker(pool, concurrency=1, FORESEEN_MODELS="served.ensembles:Total")
    producer = deployment.producer()
    requests = [{"value": value, "wait_for": str(deployment.gate(f"go{value}"))} for value in range(3)]
    pendings = [producer.submit("total", request) for request in requests]
    wait_until(lambda: leaving.logged("'waiting': 1") == 3, "all wait")

    leaving.terminate()
    staying = deployment.start_worker(pool, concurrency=1, FORESEEN_MODELS="served.ensembles:Total")
    assert leaving.wait() == 0
    stopped_at = time.monotonic()
    wait_until(lambda: staying.logged("'waiting': 1") == 3, "all wait in the other worker")
    for value in range(3):
        deployment.open_gate(f"go{value}")
    assert [pending.result(20)["answer"] for pending in pendings] == [0.0, 9.0, 18.0]
    assert time.monotonic() - stopped_at < 10.0, "half of a lease"
    assert [len(deployment.computations((name, 1))) for name in ("one", "two", "six")] == [1, 1, 1]


def test_while_it_waits_each_lease_takes_one_message_and_the_flight_stays_its_own(
    deploy: Callable[..., Deployment],
) -> None:
    deployment = deploy(models=_MODELS, lease_s=1.0)
    worker = deployment.start_worker(concurrency=4)
    producer = deployment.producer()
    request = {"value": 5, "wait_for": str(deployment.gate("go"))}
    pending = producer.submit("total", request)
    wait_until(lambda: worker.logged("'waiting': 1"), "it waits")
    worker.log.write_text("")
    time.sleep(5.0)  # what is measured is what happens in this time
    copies = worker.logged("'sent_again': 1")
    assert 2 <= copies <= 6
    deployment.open_gate("go")
    assert pending.result(20)["answer"] == 45.0
    assert len(deployment.computations(("noted", 45.0))) == 1
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")
