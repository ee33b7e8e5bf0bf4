"""What a model's policies promise, seen from who asks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from acceptance.harness import DEADLINE_S, Deployment, wait_until

from producer import ModelFailed, Source, TransientFailure

pytestmark = pytest.mark.acceptance


@pytest.fixture
def deployment(deploy: Callable[..., Deployment]) -> Deployment:
    deployment = deploy(models=("served.policies",))
    deployment.start_worker("threads", 4)
    return deployment


def test_failures_are_kept_by_their_kind(deployment: Deployment) -> None:
    """One that passes is asked for again at once; one that comes again is told again, without a computation."""
    producer = deployment.producer()
    for kind, error, computed in (("transient", TransientFailure, 2), ("permanent", ModelFailed, 1)):
        for _ in range(2):
            with pytest.raises(error):
                producer.predict("by-kind", {"value": kind, kind: True, "raise": "broken"}, timeout=DEADLINE_S)
        assert len(deployment.computations(kind)) == computed


def test_a_failure_that_is_forgotten_is_computed_again(deployment: Deployment) -> None:
    producer = deployment.producer()
    request = {"value": "brief", "raise": "broken"}
    with pytest.raises(ModelFailed):
        producer.predict("short-failure", request, timeout=DEADLINE_S)
    assert producer.submit("short-failure", request).source is Source.HIT
    wait_until(lambda: producer.submit("short-failure", request).source is Source.COMPUTED, "it has been forgotten")
