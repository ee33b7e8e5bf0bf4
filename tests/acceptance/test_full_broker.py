"""A broker that is full refuses, and says so; nobody who follows is stranded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from acceptance.harness import Deployment

from foreseen.embedded import EmbeddedServer
from producer import BrokerUnavailable, Producer

pytestmark = pytest.mark.acceptance


def test_a_full_broker_is_a_clear_error_and_leaves_nothing_behind(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    worker = deployment.start_worker("solo")
    deployment.producer().predict("slow", {"value": "served"})
    with EmbeddedServer(config={"maxmemory": "3mb", "maxmemory-policy": "noeviction"}) as full:
        producer = deployment.producer(broker_url=full.url(0))
        request = {"value": "x" * 100_000}
        submitted: list[Any] = []
        with pytest.raises(BrokerUnavailable, match="maxmemory"):
            _submit_for_ever(producer, request, submitted)
        refused = submitted[-1]
        assert deployment.flight(refused) == {}
    assert deployment.producer().predict("slow", refused)["value"] == request["value"]
    assert worker.is_running


def _submit_for_ever(producer: Producer, request: dict[str, Any], submitted: list[Any]) -> None:
    for number in range(100):
        submitted.append(request | {"number": number})
        producer.submit("slow", submitted[-1])
