"""A broker that is full refuses, and says so; nobody who follows is stranded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from acceptance.harness import Deployment

from foreseen.embedded import EmbeddedServer
from producer import BrokerUnavailable

pytestmark = pytest.mark.acceptance


def test_a_full_broker_is_a_clear_error_and_leaves_nothing_behind(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    worker = deployment.start_worker("solo")
    deployment.producer().predict("slow", {"value": "served"})
    with EmbeddedServer(config={"maxmemory": "3mb", "maxmemory-policy": "noeviction"}) as full:
        producer = deployment.producer(broker_url=full.url(0))
        request = {"value": "x" * 100_000}
        refused = None
        for number in range(100):
            try:
                producer.submit("slow", request | {"number": number})
            except BrokerUnavailable as error:
                assert "maxmemory" in str(error)
                refused = request | {"number": number}
                break
        assert refused is not None
        assert deployment.flight(refused) == {}
    assert deployment.producer().predict("slow", refused)["value"] == request["value"]
    assert worker.is_running
