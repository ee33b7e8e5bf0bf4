"""Either server as both broker and cache: the one that the wheel brings, and Debian's Redis."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import redis
from acceptance.clusters import REDIS
from acceptance.harness import DEADLINE_S, Deployment, wait_until

from foreseen.embedded import _free_port

pytestmark = pytest.mark.acceptance


@contextlib.contextmanager
def redis_server(deployment: Deployment) -> Iterator[int]:
    """Run Debian's Redis; yields its port."""
    port = _free_port()
    with (deployment.directory / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            [REDIS, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--maxmemory-policy", "noeviction"],
            cwd=deployment.directory, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    deployment._tell_keeper(process.pid)
    try:
        with redis.Redis(port=port) as client:
            wait_until(lambda: _answers(client), "it answers")
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture(params=["Valkey 9", "Redis 7"])
def served(deploy: Callable[..., Deployment], request: pytest.FixtureRequest) -> Iterator[tuple[Deployment, str]]:
    """Return a deployment on one server, and what that is called."""
    deployment = deploy(lease_s=1.0)
    with contextlib.ExitStack() as stack:
        if request.param == "Redis 7":
            if not REDIS.exists():
                pytest.skip("Redis is not installed (Debian: redis-server)")
            port = stack.enter_context(redis_server(deployment))
            deployment.use_broker(f"redis://127.0.0.1:{port}/0")
            deployment.use_cache(f"redis://127.0.0.1:{port}/1")
        yield deployment, request.param


def test_all_goes_on_either(served: tuple[Deployment, str]) -> None:
    deployment, name = served
    worker = deployment.start_worker("prefork", 2)
    producer = deployment.producer(near_cache_bytes=10**6)
    inputs = [{"value": value} for value in range(100)]
    assert [each.result(DEADLINE_S)["value"] for each in producer.submit_many("slow", inputs)] == [*range(100)]
    assert [each["value"] for each in producer.map("slow", inputs)] == [*range(100)]
    assert len(deployment.computations()) == 100
    wait_until(lambda: producer.near_cache().is_on, "changes are told")
    for _ in range(2):
        producer.predict("slow", {"value": 1})
    wait_until(lambda: producer.near_cache().hits, "it answers")
    assert producer.invalidate("slow", {"value": 1})
    assert producer.purge("slow") == 1
    assert producer.predict("slow", {"value": 2})["value"] == 2
    assert len(deployment.computations(2)) == 2

    gate = str(deployment.gate("go"))
    running = producer.submit("slow", {"value": "running", "wait_for": gate}, priority=9)
    deployment.wait_for_computations("running")
    worker.kill()
    deployment.open_gate("go")
    deployment.start_worker("threads", 1)
    assert running.result(DEADLINE_S)["value"] == "running"
    told = subprocess.run(
        [sys.executable, "-m", "foreseen.cli", "doctor"],
        env=deployment.environment, cwd=deployment.directory, capture_output=True, text=True, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert name in told.stdout
    assert told.returncode == 0, told.stdout
    stats = subprocess.run(
        [sys.executable, "-m", "foreseen.cli", "stats", "--json"],
        env=deployment.environment, capture_output=True, text=True, timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    assert json.loads(stats.stdout)["models"]["slow@1"]["computed"] >= 102
