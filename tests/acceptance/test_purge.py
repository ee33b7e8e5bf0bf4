"""A purge, or an invalidation, in mid-computation wins over what began before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import pytest
from acceptance.harness import Deployment, wait_until

from producer import Producer

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.parametrize("how", ["purge", "invalidate"]),
]

How: TypeAlias = Literal["purge", "invalidate"]


def _forget(producer: Producer, how: How, request: dict[str, Any]) -> None:
    if how == "purge":
        assert producer.purge("slow") == 1
    else:
        assert not producer.invalidate("slow", request)  # there is no entry yet


def test_those_who_joined_get_the_outcome_and_the_next_computes_anew(
    deploy: Callable[..., Deployment], how: How
) -> None:
    deployment = deploy(lease_s=10.0)
    deployment.start_worker(concurrency=2)
    producer, elsewhere = deployment.producer(), deployment.producer()
    request = {"value": how, "nonce": True, "wait_for": str(deployment.gate("go"))}
    led = producer.submit("slow", request)
    followed = elsewhere.submit("slow", request)
    attached = elsewhere.pending(led.key)
    deployment.wait_for_computations(how)

    _forget(producer, how, request)
    deployment.open_gate("go")

    output = led.result(20)
    assert output["value"] == how
    assert followed.result(20) == output
    assert attached.result(20) == output
    assert producer.peek("slow", request) is None
    anew = elsewhere.predict("slow", request)
    assert anew["holder"] != output["holder"]
    assert producer.peek("slow", request) == anew
    assert len(deployment.computations(how)) == 2


def test_who_comes_after_it_does_not_get_what_began_before(deploy: Callable[..., Deployment], how: How) -> None:
    deployment = deploy(lease_s=2.0)
    deployment.start_worker(concurrency=2)
    producer, elsewhere = deployment.producer(), deployment.producer()
    request = {"value": how, "nonce": True, "wait_for": str(deployment.gate("{pid}"))}
    before = producer.submit("slow", request)
    (first,) = deployment.wait_for_computations(how)

    _forget(producer, how, request)
    after = elsewhere.submit("slow", request)
    _, second = deployment.wait_for_computations(how, count=2)  # beside the first, which is still at it
    (worker,) = deployment.workers
    deployment.open_gate(first.pid)
    wait_until(lambda: worker.logged("] succeeded in"), "the computation from before has finished")
    assert not after.done()
    assert producer.peek("slow", request) is None

    deployment.open_gate(second.pid)
    output = after.result(20)
    assert before.result(20) == output  # whoever joined earlier is answered by what is current
    assert producer.peek("slow", request) == output
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")
    assert len(deployment.computations(how)) == 2
