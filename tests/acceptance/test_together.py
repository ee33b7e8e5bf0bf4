"""In a pool of threads, items of different messages are computed together; what is one's alone stays so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from acceptance.harness import Deployment, Worker, wait_until
from acceptance.probes import Supervisor

from producer import DeadlineExceeded, ModelFailed, TimeLimitExceeded, TooManyAttempts

pytestmark = pytest.mark.acceptance

_LEASE_S = 1.0


class _Scene:
    """A worker of threads whose model computes "first" until it is let go on, and what is asked for meanwhile."""

    def __init__(self, deploy: Callable[..., Deployment], model: str = "patient", **settings: Any) -> None:
        self.deployment = deploy(models=("served.together", "served.slow"), lease_s=_LEASE_S, **settings)
        self.producer = self.deployment.producer(model_wait_s=30)
        self.model = model

    def hold_up(self) -> Any:
        """Begin to compute "first"; return what was submitted."""
        first = self.producer.submit(self.model, {"value": "first", "wait_for": str(self.deployment.gate("go"))})
        self.deployment.wait_for_computations("first")
        return first

    def gather(self, *requests: dict[str, Any], **options: Any) -> list[Any]:
        """Ask for each in a message of its own, and return once all of them wait for the model."""
        pendings = [self.producer.submit(self.model, request, **options) for request in requests]
        wait_until(lambda: all(map(self._lease_ms, requests)), "all are begun")
        leases_ms = {id(request): self._lease_ms(request) for request in requests}
        for request in requests:  # begun a while ago: it waits, and is renewed like what runs
            wait_until(
                lambda one=request: self._lease_ms(one) > leases_ms[id(one)] + 500 * _LEASE_S, f"{request} is renewed"
            )
        return pendings

    def _lease_ms(self, request: dict[str, Any]) -> int:
        return int(self.deployment.flight(request, self.model).get("lease", 0))

    def go_on(self) -> None:
        self.deployment.open_gate("go")

    def start_worker(self, concurrency: int = 8) -> Worker:
        return self.deployment.start_worker("threads", concurrency)


@pytest.fixture
def scene(deploy: Callable[..., Deployment]) -> _Scene:
    scene = _Scene(deploy)
    scene.start_worker()
    return scene


def test_one_that_comes_alone_is_computed_at_once(scene: _Scene) -> None:
    """Its model would have it wait for ten minutes, if it waited at all."""
    assert scene.producer.predict("patient", {"value": "lone"}, timeout=30)["together"] == ["lone"]


def test_what_comes_while_the_model_computes_is_computed_together(scene: _Scene) -> None:
    first = scene.hold_up()
    pendings = scene.gather(*({"value": value} for value in range(5)))
    scene.go_on()
    outputs = [pending.result(30) for pending in pendings]
    assert [output["value"] for output in outputs] == list(range(5))
    assert [sorted(output["together"]) for output in outputs] == [list(range(5))] * 5
    assert first.result(30)["together"] == ["first"]
    assert len({pending.task_id for pending in pendings}) == 5
    assert all(len(scene.deployment.computations(value)) == 1 for value in range(5))
    wait_until(lambda: scene.deployment.unsettled_messages() == 0, "every message is settled")


def test_as_many_as_fill_a_batch_do_not_wait_for_the_call_that_runs(scene: _Scene) -> None:
    first = scene.hold_up()
    many = scene.producer.submit_many("patient", [{"value": value} for value in range(8)])  # one message
    assert [pending.result(30)["together"] for pending in many] == [list(range(8))] * 8
    assert not first.done()
    scene.go_on()
    first.result(30)


def test_a_bad_item_fails_alone_whatever_message_it_came_in(scene: _Scene) -> None:
    scene.hold_up()
    bad, *others = scene.gather({"value": "bad", "raise_batch": "bang"}, {"value": 1}, {"value": 2})
    scene.go_on()
    with pytest.raises(ModelFailed, match="bang"):
        bad.result(30)
    assert [other.result(30)["together"] for other in others] == [[1], [2]]


def test_whose_deadline_passes_while_it_waits_is_told_and_not_computed(scene: _Scene) -> None:
    scene.hold_up()
    (late,) = scene.gather({"value": "late"}, deadline_s=1.5)
    (other,) = scene.gather({"value": "other"})
    with pytest.raises(DeadlineExceeded):
        late.result(30)
    assert not other.done()
    scene.go_on()
    assert other.result(30)["together"] == ["other"]
    assert not scene.deployment.computations("late")


def test_two_calls_run_side_by_side_if_the_model_lets_go_of_the_interpreter(deploy: Callable[..., Deployment]) -> None:
    scene = _Scene(deploy, "together")
    scene.start_worker(2)
    first = scene.hold_up()
    assert scene.producer.predict("together", {"value": "second"})["together"] == ["second"]
    assert not first.done()
    scene.go_on()
    assert first.result(30)["together"] == ["first"]


def test_a_worker_that_is_asked_to_stop_computes_what_waits(deploy: Callable[..., Deployment]) -> None:
    scene = _Scene(deploy)
    worker = scene.start_worker()
    scene.hold_up()
    pendings = scene.gather({"value": 1}, {"value": 2})
    worker.terminate()
    wait_until(lambda: worker.logged("Warm shutdown"), "it has heard the signal")
    scene.go_on()
    assert [sorted(pending.result(30)["together"]) for pending in pendings] == [[1, 2]] * 2
    assert worker.wait() == 0
    wait_until(lambda: scene.deployment.unsettled_messages() == 0, "every message is settled")


def test_a_call_that_does_not_end_takes_none_along_that_shared_it(deploy: Callable[..., Deployment]) -> None:
    """It was one of them; so each is computed again, by itself."""
    scene = _Scene(deploy, "brief")
    worker = scene.start_worker()
    scene.producer.predict("brief", {"value": "warm"})
    scene.hold_up()
    slow, *others = scene.gather({"value": "slow", "sleep_s": 9}, {"value": 1}, {"value": 2})
    scene.go_on()
    with pytest.raises(TimeLimitExceeded, match="ended after 3 s"):
        slow.result(30)
    assert [other.result(30)["together"] for other in others] == [[1], [2]]
    wait_until(lambda: scene.deployment.unsettled_messages() == 0, "every message is settled")
    assert worker.logged("cannot be ended in a thread") == 2  # in company, then alone
    assert scene.producer.predict("brief", {"value": "fine"})["value"] == "fine"


def test_memory_that_runs_out_is_put_down_to_nobody_who_shared_the_call(deploy: Callable[..., Deployment]) -> None:
    scene = _Scene(deploy, max_attempts=2)
    worker = scene.start_worker()
    scene.hold_up()
    large, *others = scene.gather({"value": "large", "exhaust": True}, {"value": 1}, {"value": 2})
    scene.go_on()
    with pytest.raises(TooManyAttempts) as failure:
        large.result(60)
    assert failure.value.details["deaths"] == 2
    assert [other.result(30)["together"] for other in others] == [[1], [2]]  # suspects, too
    assert len(scene.deployment.computations("large")) == 1 + 2  # in company, then alone
    assert worker.is_running


def test_an_input_that_ends_the_worker_takes_none_along_that_shared_its_call(deploy: Callable[..., Deployment]) -> None:
    scene = _Scene(deploy, max_attempts=2, visibility_timeout_s=600.0)
    with Supervisor(scene.deployment, pool="threads", concurrency=8) as supervisor:
        first = scene.hold_up()
        poison, *others = scene.gather({"value": "poison", "die": True}, {"value": 1}, {"value": 2})
        scene.go_on()
        with pytest.raises(TooManyAttempts, match="its worker ended"):
            poison.result(60)
        assert [other.result(60)["value"] for other in others] == [1, 2]
        assert first.result(60)["value"] == "first"
        assert len(scene.deployment.computations("poison")) == supervisor.starts - 1 == 3  # in company, then alone
        assert max(len(scene.deployment.computations(value)) for value in (1, 2)) <= 2
