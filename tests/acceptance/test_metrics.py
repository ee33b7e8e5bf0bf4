"""What `foreseen metrics` serves is what happened, whichever processes it happened in."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from acceptance.harness import Deployment, Pool, wait_until
from prometheus_client.parser import text_string_to_metric_families

from producer import AsyncProducer

pytestmark = pytest.mark.acceptance

SLOW = {"model": "slow", "version": "1"}


class Exporter:
    """`foreseen metrics`, asked as Prometheus asks it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._url = f"http://127.0.0.1:{port}/metrics"

    def scrape(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        with urllib.request.urlopen(self._url, timeout=20) as response:  # noqa: S310 - http, above
            text = response.read().decode()
        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return found

    def value(self, name: str, **labels: str) -> float | None:
        return self.scrape().get(name, {}).get(tuple(sorted(labels.items())))

    def answers(self) -> bool:
        try:
            return bool(self.scrape())
        except OSError:
            return False


@contextmanager
def exporter_over(deployment: Deployment) -> Iterator[Exporter]:
    """Run it over a deployment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "foreseen.cli", "metrics", "--port", str(port)]
    with (deployment.directory / "metrics.log").open("wb") as log:
        running = subprocess.Popen(command, env=deployment.environment, stdout=log, stderr=log)
    try:
        exporter = Exporter(port)
        wait_until(exporter.answers, "it serves metrics")
        yield exporter
    finally:
        running.kill()
        running.wait()


@pytest.fixture
def exporter(deploy: Callable[..., Deployment]) -> Iterator[tuple[Deployment, Exporter]]:
    deployment = deploy()
    with exporter_over(deployment) as exporter:
        yield deployment, exporter


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_what_producers_and_workers_did_is_told(exporter: tuple[Deployment, Exporter], pool: Pool) -> None:
    deployment, metrics = exporter
    deployment.start_worker(pool, 2)
    producer = deployment.producer()
    for _ in range(2):
        for pending in producer.submit_many("slow", [{"value": number} for number in range(40)]):
            pending.result(20)
    for _ in range(120):
        producer.predict("slow", {"value": 1})
    with pytest.raises(Exception, match="no"):
        producer.predict("slow", {"value": "bad", "raise": "no"})

    async def on_a_loop() -> None:
        async with AsyncProducer(deployment.settings) as awaited:
            await awaited.predict("slow", {"value": "awaited"})

    asyncio.run(on_a_loop())
    producer.close()
    wait_until(lambda: metrics.value("foreseen_submissions_total", **SLOW, source="hit") == 160, "hits are told")
    assert metrics.value("foreseen_submissions_total", **SLOW, source="computed") == 42
    assert metrics.value("foreseen_computations_total", **SLOW, outcome="result") == 41
    assert metrics.value("foreseen_computations_total", **SLOW, outcome="failure") == 1
    answers = "foreseen_answer_duration_seconds"
    assert metrics.value(f"{answers}_count", **SLOW, source="computed") == 42
    timed = metrics.value(f"{answers}_count", **SLOW, source="hit") or 0
    assert 64 <= timed <= 320, "one in 16 is timed, and counts for 16"
    assert timed % 16 == 0
    assert metrics.value(f"{answers}_bucket", **SLOW, source="computed", le="0.0005") == 0
    assert metrics.value(f"{answers}_bucket", **SLOW, source="computed", le="+Inf") == 42

    wait_until(lambda: metrics.value("foreseen_model_call_items_sum", **SLOW) == 42, "workers tell of calls")
    calls = metrics.value("foreseen_model_call_items_count", **SLOW)
    assert calls == metrics.value("foreseen_model_call_duration_seconds_count", **SLOW)
    assert calls is not None
    assert 3 <= calls < 42, "batches"
    assert metrics.value("foreseen_queue_duration_seconds_count", **SLOW) == calls
    assert metrics.value("foreseen_queue_duration_seconds_bucket", **SLOW, le="10.0") == calls
    assert metrics.value("foreseen_workers") == 1
    assert metrics.value("foreseen_model_served", **SLOW) == 1
    assert metrics.value("foreseen_server_up", server="broker") == 1
    assert (metrics.value("foreseen_cache_keys") or 0) > 40
    assert (metrics.value("foreseen_broker_memory_used_bytes") or 0) > 0


def test_a_queue_that_stands_still_shows_how_long(exporter: tuple[Deployment, Exporter]) -> None:
    deployment, metrics = exporter
    worker = deployment.start_worker("threads", 1)
    producer = deployment.producer()
    gate = str(deployment.gate("go"))
    held = [producer.submit("slow", {"value": number, "wait_for": gate}) for number in range(4)]
    deployment.wait_for_computations(0)
    began = time.monotonic()
    wait_until(lambda: (metrics.value("foreseen_queue_messages", **SLOW) or 0) > 0, "messages wait")
    wait_until(lambda: (metrics.value("foreseen_queue_oldest_age_seconds", **SLOW) or 0) > 1, "they grow old")
    assert (metrics.value("foreseen_queue_oldest_age_seconds", **SLOW) or 0) < time.monotonic() - began + 5
    assert (metrics.value("foreseen_unacked_messages") or 0) >= 1
    assert (metrics.value("foreseen_unacked_oldest_age_seconds") or 0) > 1
    deployment.open_gate("go")
    for each in held:
        each.result(20)
    wait_until(lambda: metrics.value("foreseen_queue_messages", **SLOW) == 0, "the queue is empty")
    assert metrics.value("foreseen_queue_oldest_age_seconds", **SLOW) == 0
    worker.kill()
    wait_until(lambda: metrics.value("foreseen_workers") == 0, "the worker is missed")
    wait_until(lambda: metrics.value("foreseen_model_served", **SLOW) == 0, "its card has expired")


def test_garbage_in_a_queue_and_among_measures_stops_nothing(exporter: tuple[Deployment, Exporter]) -> None:
    deployment, metrics = exporter
    worker = deployment.start_worker("threads", 1)
    deployment.producer().predict("slow", {"value": 1})
    worker.kill()
    with deployment.redis(0) as broker, deployment.redis() as cache:
        for content in (b"garbage", b"{}", b'{"body": "AAAA"}', b'{"body": 1}'):
            broker.lpush("foreseen.slow@1", content)
        cache.hset("foreseen:m:{slow@1:00}", mapping={"answer:x\n:sum": "1", "\xff": "garbage", "items::sum": "-1"})
        assert metrics.value("foreseen_queue_messages", **SLOW) == 4
        cache.delete("foreseen:m:{slow@1:00}")
        cache.set("foreseen:m:{slow@1:00}", "not a hash")
        assert metrics.value("foreseen_server_up", server="broker") == 1
        assert metrics.value("foreseen_server_up", server="cache") == 1


def test_it_goes_on_while_servers_are_away(exporter: tuple[Deployment, Exporter]) -> None:
    deployment, metrics = exporter
    deployment.server.stop()
    assert metrics.value("foreseen_server_up", server="cache") == 0
    assert metrics.value("foreseen_server_up", server="broker") == 0
