"""Results that are computed again behind their readers' backs: nobody waits, one computation at a time."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from acceptance.cache_troubles import faces
from acceptance.harness import DEADLINE_S, Deployment, wait_until
from acceptance.probes import in_threads, statistics

from producer import AsyncProducer, Source

pytestmark = pytest.mark.acceptance

FRESH_S = 0.3


@pytest.fixture
def deployment(deploy: Callable[..., Deployment]) -> Deployment:
    deployment = deploy(models=("served.policies",))
    deployment.start_worker("threads", 4)
    return deployment


def test_a_stale_result_answers_while_it_is_computed_again(deployment: Deployment) -> None:
    producer = deployment.producer()
    request = {"value": "hot", "nonce": True, "sleep_s": 0.1}
    first = producer.predict("stale", request, timeout=DEADLINE_S)
    wait_until(lambda: producer.submit("stale", request).source is Source.STALE, "its fresh life has ended")
    answers: list[Any] = []

    def ask() -> bool:
        began = time.monotonic()
        answers.append(producer.predict("stale", request)["holder"])
        assert time.monotonic() - began < 0.1, "nobody waits for the computation"
        return bool(answers[-1] != first["holder"])

    wait_until(ask, "it has been computed again")
    assert len(set(answers)) == 2
    assert len(deployment.computations("hot")) == 2
    assert statistics(deployment, "stale@1")["refreshed"] == 1


def test_many_who_ask_have_it_computed_once(deployment: Deployment) -> None:
    """From threads and a loop at once: at the end of each fresh life there is one computation."""
    request = {"value": "hot", "nonce": True, "sleep_s": 0.1}
    with faces(deployment) as both:
        both[0].predict("stale", request, timeout=DEADLINE_S)
        ends_at = time.monotonic() + 3.0

        def ask(n: int) -> set[str]:
            seen: set[str] = set()
            while time.monotonic() < ends_at:
                seen.add(both[n % 2].predict("stale", request)["holder"])
            return seen

        seen = set[str]().union(*in_threads(8, ask))
    computed = len(deployment.computations("hot"))
    assert computed - 1 <= len(seen) <= computed
    assert 3 <= computed <= 3.0 / FRESH_S + 1


def test_a_refresh_that_fails_leaves_the_good_result(deployment: Deployment) -> None:
    producer = deployment.producer()
    broken = deployment.gate("broken")
    request = {"value": "hot", "nonce": True, "break": str(broken)}
    first = producer.predict("stale", request, timeout=DEADLINE_S)
    broken.touch()
    ends_at = time.monotonic() + 2.0
    while time.monotonic() < ends_at:
        assert producer.predict("stale", request) == first
    failures = len(deployment.computations("hot")) - 1
    assert 1 <= failures <= 2.0 / 0.2 + 1, "after each failure the next waits for as long as a failure is kept"
    broken.unlink()
    wait_until(lambda: producer.predict("stale", request) != first, "it has been computed again")


def test_a_dear_result_is_computed_again_before_it_expires(deployment: Deployment) -> None:
    producer = deployment.producer()
    request = {"value": "dear", "nonce": True, "sleep_s": 0.05}
    first = producer.predict("early", request, timeout=DEADLINE_S)

    def is_anew() -> bool:
        pending = producer.submit("early", request)
        assert pending.source is Source.HIT
        return bool(pending.result() != first)

    wait_until(is_anew, "it has been computed again")


def test_on_a_loop_too(deployment: Deployment) -> None:
    async def ask() -> None:
        async with AsyncProducer(deployment.settings) as producer:
            request = {"value": "hot", "nonce": True}
            first = await producer.predict("stale", request, timeout=DEADLINE_S)
            await asyncio.sleep(FRESH_S)
            assert (await producer.submit("stale", request)).source is Source.STALE
            async with asyncio.timeout(DEADLINE_S):
                async for answer in producer.map("stale", itertools.repeat(request), in_flight=1):
                    if answer != first:
                        break

    asyncio.run(ask())


def test_a_producer_that_ends_first_loses_no_refresh(deployment: Deployment) -> None:
    request = {"value": "hot", "nonce": True}
    with deployment.producer() as producer:
        producer.predict("stale", request, timeout=DEADLINE_S)
        threading.Event().wait(FRESH_S)
        assert producer.submit("stale", request).source is Source.STALE
    deployment.wait_for_computations("hot", 2)
