"""Whoever waits hears at once, and not when he would look again: alone, among many threads, and by callback."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from acceptance.harness import Deployment

from producer import PendingPrediction, Producer

pytestmark = pytest.mark.acceptance

#: Far longer than anything here takes: who is answered sooner has heard, and did not look again.
LEASE_S = 60.0
AT_ONCE_S = 20.0


@pytest.fixture
def producer(deploy: Callable[..., Deployment]) -> Producer:
    deployment = deploy(lease_s=LEASE_S, visibility_timeout_s=2 * LEASE_S)
    deployment.start_worker("threads", 4)
    return deployment.producer()


def test_alone_then_among_others_then_alone(producer: Producer) -> None:
    """The connection passes from a lone caller to the listener's thread and back, and no push falls between them."""

    def ask(value: Any) -> Any:
        return producer.predict("slow", {"value": value}, timeout=AT_ONCE_S)["value"]

    for turn in range(5):
        assert [ask(f"{turn} alone {index}") for index in range(20)] == [f"{turn} alone {index}" for index in range(20)]
        values = [f"{turn} together {index}" for index in range(200)]
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(ask, values)) == values


def test_by_callback_while_nobody_waits(producer: Producer) -> None:
    heard = threading.Semaphore(0)
    for index in range(50):
        producer.submit("slow", {"value": index}).add_done_callback(lambda _: heard.release())
        assert heard.acquire(timeout=AT_ONCE_S)


def test_by_callback_beside_a_caller_who_waits(producer: Producer) -> None:
    """A lone caller who hears takes in what is others' too; what comes after him is not left unheard."""
    heard = threading.Semaphore(0)
    for index in range(20):
        pending = producer.submit("slow", {"value": f"long {index}", "sleep_s": 0.02})
        pending.add_done_callback(lambda _: heard.release())
        producer.predict("slow", {"value": f"short {index}"}, timeout=AT_ONCE_S)
        assert heard.acquire(timeout=AT_ONCE_S)


@pytest.mark.parametrize("beside", [False, True], ids=["on the listener's thread", "on a caller's"])
def test_a_callback_may_wait_for_another_prediction(producer: Producer, *, beside: bool) -> None:
    """It runs on the one thread that hears, which goes on hearing in it."""
    heard: queue.Queue[Any] = queue.Queue()

    def then(pending: PendingPrediction[Any]) -> None:
        first = pending.result()["value"]
        heard.put(producer.predict("slow", {"value": f"after {first}", "sleep_s": 0.6}, timeout=AT_ONCE_S)["value"])

    for turn in range(3):
        producer.submit("slow", {"value": f"{turn}", "sleep_s": 0.05}).add_done_callback(then)
        if beside:
            producer.predict("slow", {"value": f"beside {turn}", "sleep_s": 0.1}, timeout=AT_ONCE_S)
        assert heard.get(timeout=AT_ONCE_S) == f"after {turn}"


def test_a_long_wait_passes_to_the_listener(producer: Producer) -> None:
    began = time.monotonic()
    producer.predict("slow", {"value": 1, "sleep_s": 1.0}, timeout=AT_ONCE_S)
    assert time.monotonic() - began < AT_ONCE_S


def test_one_who_is_answered_elsewhere_stops_hearing(producer: Producer) -> None:
    """Closing ends those who hear, within a moment."""
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(producer.predict, "slow", {"value": 1, "sleep_s": 5.0}, timeout=LEASE_S)
        time.sleep(0.1)
        producer.close()
        assert type(waiting.exception(timeout=AT_ONCE_S)).__name__ == "ProducerClosed"
