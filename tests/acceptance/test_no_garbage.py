"""Nothing is left to Python's collector of cycles: what a process asked for is freed when it is answered."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest
from acceptance.harness import Deployment

from foreseen.client.submission import Submission
from foreseen.outcome import Failure, Result
from producer import AsyncProducer, ForeseenError, Producer
from producer.pending import Submitted

pytestmark = pytest.mark.acceptance

REQUESTS = 100
#: What each request makes; connections and other tests leave cycles of other things.
OURS = (Submission, Submitted, ForeseenError, Result, Failure)

KINDS = {
    "hit": ({"value": "hit"}, 20.0),
    "failure": ({"value": "failure", "raise": "no"}, 20.0),
    "kept failure": ({"value": "failure", "raise": "no"}, 20.0),
    "given up": ({"value": "slow", "sleep_s": 0.05}, 0.001),
    "miss": ({"value": "miss"}, 20.0),
}


class Collected:
    """What of ours the collector would have to free after the block, by type."""

    def __enter__(self) -> Counter[str]:
        self.types: Counter[str] = Counter()
        gc.collect()
        gc.disable()
        return self.types

    def __exit__(self, *_: object) -> None:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        self.types.update(type(each).__name__ for each in gc.garbage if isinstance(each, OURS))
        gc.garbage.clear()
        gc.set_debug(0)
        gc.enable()


@pytest.fixture
def served(deploy: Callable[..., Deployment]) -> Deployment:
    deployment = deploy()
    deployment.start_worker("threads", 2)
    return deployment


@pytest.mark.parametrize("kind", KINDS)
def test_on_threads(served: Deployment, kind: str) -> None:
    request, timeout_s = KINDS[kind]

    def ask(producer: Producer, number: int) -> None:
        one = request if "hit" in kind or "kept" in kind else {**request, "number": number}
        with suppress(ForeseenError):
            producer.predict("slow", one, timeout=timeout_s)
        with suppress(ForeseenError):
            producer.submit("slow", one).result(timeout_s)

    producer = served.producer()
    ask(producer, -1)
    with Collected() as types:
        for number in range(REQUESTS):
            ask(producer, number)
    assert not types


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_loop(served: Deployment, kind: str) -> None:
    request, timeout_s = KINDS[kind]

    async def ask(producer: AsyncProducer, number: int) -> None:
        one = request if "hit" in kind or "kept" in kind else {**request, "number": number}
        with suppress(ForeseenError):
            await producer.predict("slow", one, timeout=timeout_s)
        with suppress(ForeseenError):
            await (await producer.submit("slow", one)).result(timeout_s)  # kept here, it and its error keep each other

    async def test() -> Counter[str]:
        async with AsyncProducer(served.settings) as producer:
            await ask(producer, -1)
            with Collected() as types:
                for number in range(REQUESTS):
                    await ask(producer, number)
            return types

    types = asyncio.run(test())
    assert not types
