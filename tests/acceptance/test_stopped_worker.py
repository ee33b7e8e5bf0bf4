"""A worker stands still for longer than its lease, another takes over, then the first goes on: one outcome for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from acceptance.harness import Deployment, ProducerProcess, Worker, wait_until

from producer import Producer

pytestmark = pytest.mark.acceptance

_WAITERS = """
def wait():
    say(producer.predict("slow", arguments["request"], timeout=60))

with Producer() as producer:
    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""
_DONE = "] succeeded in"


@dataclass(frozen=True, slots=True)
class _Scene:
    """Two processes wait; `stopped` stood still while it computed, so `taker` computes too. Neither may finish yet."""

    deployment: Deployment
    producer: Producer
    request: dict[str, Any]
    waiting: list[ProducerProcess]
    stopped: Worker
    stopped_pid: int
    taker: Worker
    taker_pid: int

    def answers(self) -> list[Any]:
        """Wait for the answers of all who joined."""
        return [answer for process in self.waiting for answer in process.finish()]

    def let_the_stopped_one_finish(self) -> None:
        """Go on with it, and wait until it has finished and said so."""
        self.stopped.continue_process()
        self.deployment.open_gate(self.stopped_pid)
        wait_until(lambda: self.stopped.logged(_DONE), "the one that stood still has finished")


@pytest.fixture
def scene(deploy: Callable[..., Deployment]) -> _Scene:
    """Stop a worker in mid-computation and wait until another has taken over."""
    deployment = deploy(lease_s=1.0)
    deployment.start_workers(2, concurrency=1)
    request = {"value": 1, "nonce": True, "wait_for": str(deployment.gate("{pid}"))}
    waiting = [deployment.start_producer(_WAITERS, request=request) for _ in range(2)]
    (first,) = deployment.wait_for_computations(1)
    wait_until(lambda: deployment.joiners(request, "w") == len(waiting), "both processes wait")
    stopped = deployment.worker_of(first.pid)
    stopped.stop_process()
    _, second = deployment.wait_for_computations(1, count=2)
    taker = deployment.worker_of(second.pid)
    assert taker is not stopped
    return _Scene(deployment, deployment.producer(), request, waiting, stopped, first.pid, taker, second.pid)


def test_the_late_finish_changes_nothing_and_ends_no_flight_that_is_not_its_own(scene: _Scene) -> None:
    deployment, producer = scene.deployment, scene.producer
    deployment.open_gate(scene.taker_pid)
    answers = scene.answers()
    assert len(answers) == 6
    assert all(answer == answers[0] for answer in answers)
    assert producer.peek("slow", scene.request) == answers[0]

    deployment.close_gate(scene.taker_pid)
    refreshed = producer.submit("slow", scene.request, refresh=True)
    deployment.wait_for_computations(1, count=3)
    flight = deployment.flight(scene.request)
    scene.let_the_stopped_one_finish()

    assert producer.peek("slow", scene.request) == answers[0]
    assert not refreshed.done()
    still = deployment.flight(scene.request)
    assert (still["token"], still["holder"], still["state"]) == (flight["token"], flight["holder"], "running")

    deployment.open_gate(scene.taker_pid)
    fresh = refreshed.result(30)
    assert fresh["holder"] != answers[0]["holder"]
    assert producer.peek("slow", scene.request) == fresh
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")
    assert len(deployment.computations(1)) == 3
    assert producer.peek("slow", scene.request) == fresh


def test_the_stopped_one_may_finish_first_and_then_its_answer_is_everybodys(scene: _Scene) -> None:
    deployment, producer = scene.deployment, scene.producer
    scene.let_the_stopped_one_finish()
    answers = scene.answers()
    assert len(answers) == 6
    assert answers[0]["holder"] == f"{scene.stopped_pid}-1"
    assert all(answer == answers[0] for answer in answers)

    deployment.open_gate(scene.taker_pid)
    wait_until(lambda: scene.taker.logged(_DONE), "the one that took over has finished")
    assert producer.peek("slow", scene.request) == answers[0]
    assert producer.predict("slow", scene.request) == answers[0]
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")
    assert len(deployment.computations(1)) == 2


def test_a_stopped_one_whose_entry_was_invalidated_brings_nothing_back(scene: _Scene) -> None:
    deployment, producer = scene.deployment, scene.producer
    deployment.open_gate(scene.taker_pid)
    (answer,) = {answer["holder"] for answer in scene.answers()}
    assert producer.invalidate("slow", scene.request)
    scene.let_the_stopped_one_finish()

    outdated = {answer, f"{scene.stopped_pid}-1"}
    entry = producer.peek("slow", scene.request)  # there may be one: who finds its flight gone computes once more
    assert entry is None or entry["holder"] not in outdated
    assert producer.predict("slow", scene.request)["holder"] not in outdated
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")
    assert producer.peek("slow", scene.request)["holder"] not in outdated
    assert len(deployment.computations(1)) == 3
