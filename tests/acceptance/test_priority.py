"""Who is more urgent is served first, whatever was queued before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from acceptance.harness import Deployment, wait_until

pytestmark = pytest.mark.acceptance


def test_the_most_urgent_is_computed_first_and_a_raise_overtakes(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    deployment.start_worker("solo")
    gate = str(deployment.gate("all"))
    producer = deployment.producer()

    def submit(value: str, priority: int) -> None:
        producer.submit("slow", {"value": value, "wait_for": gate}, priority=priority)

    submit("first", 4)
    deployment.wait_for_computations("first")
    for value, priority in (("raised", 0), ("low", 0), ("middle", 4), ("high", 9)):
        submit(value, priority)
    submit("raised", 9)
    deployment.open_gate("all")
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")
    begun = sorted((deployment.computations(value)[0].at, value) for value in ("raised", "low", "middle", "high"))
    assert [value for _, value in begun] == ["high", "raised", "middle", "low"]
