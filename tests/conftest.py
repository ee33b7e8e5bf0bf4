"""Fixtures that every kind of test may ask for: servers of this session, and a namespace of the test's own."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
import redis

from foreseen.embedded import EmbeddedServer

# ONNX Runtime gathers what it would send to its makers as soon as it is imported, as Magika does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Beyond what anything waited for in a test takes on a busy machine; reached only when the test fails.
DEADLINE_S = 20.0


#: Files that take half a minute and more.
LONGEST = {
    "test_backlog.py",
    "test_benchmarks.py",
    "test_chaos.py",
    "test_cli.py",
    "test_ensemble_deaths.py",
    "test_ensembles.py",
    "test_reload.py",
    "test_stages.py",
    "test_succession.py",
    "test_up.py",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes take file by file, begin with long ones and end with short ones, so that all end at once.

    The order stays random among the longest, among those with processes of their own, and among all others.
    """
    if hasattr(config, "workerinput"):  # one of pytest-xdist's processes
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    if item.path.name in LONGEST:
        return 0
    return 1 if item.get_closest_marker("acceptance") or item.get_closest_marker("chaos") else 2


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """One server for all tests, without persistence; keep to your `namespace` in it and flush nothing."""
    with EmbeddedServer(config={"save": ""}) as running:
        yield running


@pytest.fixture(scope="session")
def cluster_server() -> Iterator[EmbeddedServer]:
    """The same as a cluster of one node, which refuses what would not work across nodes."""
    with EmbeddedServer(cluster=True, config={"save": ""}) as running:
        yield running


@pytest.fixture
def namespace() -> str:
    """A prefix for keys and queues that no other test uses."""
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def redis_client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client of the session's server, on the database where the result cache lies by default; answers are bytes."""
    with redis.Redis.from_url(server.url(1)) as client:
        yield client


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Wait until a condition holds, for what gives no event to wait on; fails after a deadline."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not so within {DEADLINE_S:g} s")
            time.sleep(0.01)

    return wait
