"""A server that comes back empty while many wait: nobody hangs, nobody gets a wrong answer, and all goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from acceptance.harness import Deployment, wait_until
from acceptance.probes import cache_apart, cache_of, in_threads, keys_without_expiry, queued, waiting

from foreseen.embedded import EmbeddedServer
from producer import BrokerUnavailable, CacheUnavailable, PendingPrediction, Producer

pytestmark = pytest.mark.acceptance

TIMEOUT_S = 40.0
#: What a caller may be told when a server goes away under its call.
UNAVAILABLE = (BrokerUnavailable, CacheUnavailable)


def test_a_broker_that_is_away_is_tried_every_two_seconds(deploy: Callable[..., Deployment]) -> None:
    """Celery's own pauses grow to half a minute, and who waits for a broker that is back would wait for that."""
    deployment = deploy()
    with cache_apart(deployment):
        worker = deployment.start_worker("threads", 1)
        os.kill(deployment.server.pid, signal.SIGKILL)
        wait_until(lambda: worker.logged("Trying again in") >= 5, "it is tried again and again")
    assert worker.logged("Trying again in 2.00 seconds") >= 2
    assert not worker.logged("Trying again in 4.00 seconds")


class Crowd:
    """A hundred who wait: half of them in `predict`, half for what they submitted; some keys shared, some computing.

    Values 0 to 3 are being computed when `wait_until_all_wait` returns, the others queued; the gate lets all go.
    """

    def __init__(self, deployment: Deployment, producer: Producer) -> None:
        self._deployment = deployment
        self._producer = producer
        self._gate = deployment.gate("crowd")
        self.outcomes: list[Any] = []
        self.ended_in_time = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        producer.predict("slow", {"value": "known"})
        for value in range(2):  # one for each process of the pool
            producer.submit("slow", self._request(value))
            deployment.wait_for_computations(value)
        self._thread.start()

    def wait_until_all_wait(self) -> None:
        wait_until(lambda: waiting(self._producer) >= 102, "a hundred wait")

    def let_go(self) -> None:
        self._gate.touch()

    def join(self) -> list[Any]:
        """Return what each got: a value or an error."""
        self._thread.join(TIMEOUT_S + 20)
        assert not self._thread.is_alive()
        return self.outcomes

    def _request(self, value: int) -> dict[str, Any]:
        return {"value": value, "wait_for": str(self._gate)}

    def _run(self) -> None:
        self.outcomes = in_threads(100, self._wait, TIMEOUT_S + 10)

    def _wait(self, index: int) -> int:
        value = index % 60
        if index % 2:
            answer = self._producer.predict("slow", self._request(value), timeout=TIMEOUT_S)
        else:
            answer = self._producer.submit("slow", self._request(value)).result(TIMEOUT_S)
        return int(answer["value"])


def test_everyone_who_waits_survives_a_restart_of_cache_and_broker(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0)
    deployment.start_worker("prefork", 2)
    producer = deployment.producer()
    crowd = Crowd(deployment, producer)
    crowd.wait_until_all_wait()

    deployment.server.restart()
    restarted = time.monotonic()
    _wait_for_card(deployment)
    assert time.monotonic() - restarted < deployment.settings.heartbeat_s + 5  # a heartbeat, and a slow machine
    crowd.let_go()
    outcomes = crowd.join()
    assert outcomes == [index % 60 for index in range(100)]  # they were waiting: nobody made a call that could fail

    assert producer.predict("slow", {"value": "new"})["value"] == "new"
    newcomer = deployment.producer()
    assert newcomer.predict("slow", {"value": "newer"})["value"] == "newer"
    assert max(Counter(each.digest for each in deployment.computations()).values()) <= 2
    assert keys_without_expiry(deployment) == []


def test_a_restart_while_calls_are_in_the_air(deploy: Callable[..., Deployment]) -> None:
    """The server goes while look-ups, publishes, begins and finishes are under way, twice."""
    deployment = deploy(lease_s=1.0)
    deployment.start_worker("prefork", 2)
    producers = [deployment.producer() for _ in range(3)]
    for producer in producers:
        producer.predict("slow", {"value": "known"})
    stop = threading.Event()
    errors: Counter[str] = Counter()
    answered = [0] * 100

    def ask(index: int) -> None:
        call = 0
        while not stop.is_set():
            value = index % 40 + 1000 * call
            call += 1
            try:
                request = {"value": value, "sleep_s": 0.01}
                if index % 2:
                    answer = producers[index % 3].predict("slow", request, timeout=TIMEOUT_S)
                else:
                    answer = producers[index % 3].submit("slow", request).result(TIMEOUT_S)
            except UNAVAILABLE as error:
                errors[type(error).__name__] += 1
                time.sleep(0.05)
                continue
            assert answer["value"] == value
            answered[index] += 1

    outcomes: list[Any] = []
    crowd = threading.Thread(target=lambda: outcomes.extend(in_threads(100, ask, 2 * TIMEOUT_S)), daemon=True)
    crowd.start()
    for _ in range(2):
        before = sum(answered)
        wait_until(lambda least=before + 200: sum(answered) >= least, "answers come", TIMEOUT_S)
        deployment.server.restart()
    before = sum(answered)
    wait_until(lambda: sum(answered) >= before + 200, "answers come again", TIMEOUT_S)
    stop.set()
    crowd.join(2 * TIMEOUT_S)
    print("answered", sum(answered), "errors", dict(errors))
    assert outcomes == [None] * 100
    assert all(answered)
    assert keys_without_expiry(deployment) == []


def test_everyone_who_waits_survives_a_restart_of_the_cache_alone(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0)
    with cache_apart(deployment) as cache:
        deployment.start_worker("prefork", 2)
        producer = deployment.producer()
        crowd = Crowd(deployment, producer)
        crowd.wait_until_all_wait()
        cache.restart()
        _wait_for_card(deployment)
        crowd.let_go()
        assert crowd.join() == [index % 60 for index in range(100)]
        assert producer.predict("slow", {"value": "new"})["value"] == "new"
        assert deployment.producer().predict("slow", {"value": "newer"})["value"] == "newer"
        # What was running or queued when the cache lost its flights may be computed once more, each time it did.
        assert max(Counter(each.digest for each in deployment.computations()).values()) <= 2
        producer.close()


def test_submissions_survive_a_restart_of_the_cache_alone_though_nobody_waits(
    deploy: Callable[..., Deployment],
) -> None:
    """The broker kept the messages: what nobody waits for is computed from them."""
    deployment = deploy(lease_s=2.0)
    with cache_apart(deployment) as cache:
        worker = deployment.start_worker("prefork", 2)
        producer = deployment.producer()
        producer.predict("slow", {"value": "known"})
        worker.terminate()
        worker.wait()
        for value in range(30):
            producer.submit("slow", {"value": value})
        producer.close()
        assert queued(deployment) == 30
        cache.restart()
        deployment.start_worker("prefork", 2)
        late = deployment.producer()
        wait_until(lambda: late.peek("slow", {"value": 29}) is not None, "the last entry is there")
        wait_until(
            lambda: all(late.peek("slow", {"value": value}) is not None for value in range(30)), "all entries are there"
        )
        assert len(deployment.computations()) == 31
        late.close()


def test_everyone_who_waits_survives_a_restart_of_the_broker_alone(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=1.0)
    with cache_apart(deployment):
        deployment.start_worker("prefork", 2)
        producer = deployment.producer()
        crowd = Crowd(deployment, producer)
        crowd.wait_until_all_wait()
        deployment.server.restart()
        crowd.let_go()
        assert crowd.join() == [index % 60 for index in range(100)]
        assert producer.predict("slow", {"value": "new"})["value"] == "new"
        assert max(Counter(each.digest for each in deployment.computations()).values()) == 1  # no flight was lost
        producer.close()


def test_callers_are_told_at_once_while_the_server_is_away(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=1.0)
    deployment.start_worker("threads", 2)
    producer = deployment.producer()
    producer.predict("slow", {"value": "known"})
    gate = deployment.gate("go")
    waiting: list[PendingPrediction] = [
        producer.submit("slow", {"value": value, "wait_for": str(gate)}) for value in range(5)
    ]
    port = deployment.server.port
    deployment.server.stop()
    began = time.monotonic()
    for _ in range(10):
        with pytest.raises(CacheUnavailable):
            producer.predict("slow", {"value": "meanwhile"}, timeout=TIMEOUT_S)
    assert time.monotonic() - began < deployment.settings.connect_timeout_s + deployment.settings.reply_timeout_s
    assert not any(pending.done() for pending in waiting)

    deployment.server = EmbeddedServer(port)
    deployment.server.start()
    gate.touch()
    assert [pending.result(TIMEOUT_S)["value"] for pending in waiting] == list(range(5))
    assert producer.predict("slow", {"value": "meanwhile"}, timeout=TIMEOUT_S)["value"] == "meanwhile"


def _wait_for_card(deployment: Deployment) -> None:
    with cache_of(deployment) as cache:
        name = f"{deployment.settings.namespace}:card:slow@1"
        wait_until(lambda: cache.exists(name), "the model's card is back")
