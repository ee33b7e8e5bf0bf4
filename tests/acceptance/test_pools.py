"""Every pool does the main job alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from acceptance.harness import POOLS, Deployment, Pool

from producer import ModelFailed, Source

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_predicts_coalesces_batches_and_tells_failures(deploy: Callable[..., Deployment], pool: Pool) -> None:
    deployment = deploy(forked=False, lease_s=10.0)  # nothing dies here
    deployment.start_worker(pool)
    producer = deployment.producer()

    first = producer.predict("slow", {"value": 1})
    assert first["value"] == 1
    assert producer.predict("slow", {"value": 1}) == first

    inputs = [{"value": index % 20} for index in range(100)]
    pendings = producer.submit_many("slow", inputs)
    assert [pending.result(20)["value"] for pending in pendings] == [index % 20 for index in range(100)]
    assert {pending.source for pending in pendings} == {Source.HIT, Source.COMPUTED, Source.COALESCED}

    for _ in range(2):  # computed, then from its entry
        with pytest.raises(ModelFailed, match="ValueError: boom") as raised:
            producer.predict("slow", {"value": "bad", "raise": "boom"})
        assert raised.value.details == {"type": "ValueError"}

    mixed = producer.submit_many("slow", [{"value": "good"}, {"value": "worse", "raise_batch": "bang"}])
    assert mixed[0].result(20)["value"] == "good"
    with pytest.raises(ModelFailed, match="bang"):
        mixed[1].result(20)

    assert all(len(deployment.computations(value)) == 1 for value in range(20))
    assert len(deployment.computations("bad")) == 1
