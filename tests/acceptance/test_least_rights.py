"""The users of docs/security.md on servers that enforce them: all that is needed works, and nothing else is allowed."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import pytest
import redis
from acceptance.harness import DEADLINE_S, Deployment, wait_until
from acceptance.probes import remove_messages
from acceptance.test_metrics import exporter_over

from foreseen.canonical import canonicalize
from foreseen.embedded import EmbeddedServer
from foreseen.errors import BrokerUnavailable, CacheUnavailable, Revoked
from foreseen.flights import MOST_HOTTEST
from foreseen.keys import KeySpace, key_of
from foreseen.settings import Settings
from producer import AsyncProducer, Producer, Source

pytestmark = pytest.mark.acceptance

DOCS: Final = Path(__file__).parents[2] / "docs" / "security.md"
PASSWORD: Final = "a-password-of-the-test"


def users(server: Literal["broker", "cache"]) -> Iterator[list[str]]:
    """Return the lines for a server, as words, without `user`."""
    (block,) = re.findall(rf"^```acl {server}\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        words = line.replace("CHANGE-ME", PASSWORD)
        assert words.startswith("user ")
        yield re.findall(r"\([^)]*\)|\S+", words)[1:]  # a selector in brackets is one word


class Guarded:
    """A deployment whose processes come as the users of the documentation, each to a server of its own."""

    def __init__(self, deployment: Deployment, cache: EmbeddedServer) -> None:
        self.deployment = deployment
        self.admins = {
            "broker": redis.Redis.from_url(deployment.server.url(0), decode_responses=True),
            "cache": redis.Redis.from_url(cache.url(0), decode_responses=True),
        }
        for name in ("broker", "cache"):
            for words in users(name):  # type: ignore[arg-type]
                self.admins[name].execute_command("ACL SETUSER", *words)
        self._urls = {"broker": deployment.server.url(0), "cache": cache.url(0)}

    def url(self, server: str, user: str) -> str:
        return self._urls[server].replace("redis://", f"redis://{user}:{PASSWORD}@")

    def become(self, user: str) -> Settings:
        """Have what is started from now on come as that user."""
        urls = {f"{server}_url": self.url(server, user) for server in self._urls}
        self.deployment._settings = self.deployment.settings.model_copy(update=urls)
        return self.deployment.settings

    def denied(self) -> list[str]:
        """Return what was refused since the last call: who, what, where.

        Except CONFIG GET, which a worker tries when it starts, and which tells more than it should know.
        """
        told: list[str] = []
        for server, admin in self.admins.items():
            told += [
                f"{server}: {each['username']} {each['reason']} {each['object']} ({each['context']})"
                for each in admin.acl_log()
            ]
            admin.acl_log_reset()
        return sorted(each for each in told if "config|get" not in each)

    def close(self) -> None:
        for admin in self.admins.values():
            admin.close()


@pytest.fixture
def guarded(deploy: Callable[..., Deployment]) -> Iterator[Guarded]:
    with EmbeddedServer() as cache:
        deployment = deploy(
            models=("served.slow", "served.policies", "served.ensembles", "served.staged"),
            lease_s=0.6,
            heartbeat_s=0.3,
            visibility_timeout_s=4.0,
        )
        guarded = Guarded(deployment, cache)
        try:
            yield guarded
        finally:
            guarded.close()


def test_every_step_works_with_the_least_rights(guarded: Guarded) -> None:
    deployment = guarded.deployment
    guarded.become("worker")
    worker = deployment.start_worker("prefork", 2, arguments=("-E",))
    guarded.become("producer")
    producer = deployment.producer()
    assert producer.predict("slow", {"value": 1}, timeout=20)["value"] == 1
    assert producer.submit("slow", {"value": 1}).source is Source.HIT
    assert producer.submit("slow", {"value": 2}, refresh=True).result(timeout=20)["value"] == 2
    assert len(list(producer.map("slow", ({"value": step} for step in range(40))))) == 40
    held = {"value": "held", "wait_for": str(deployment.gate("go"))}
    first, second = producer.submit("slow", held), producer.submit("slow", held)
    deployment.wait_for_computations("held")
    deployment.workers[0].kill_child(deployment.computations("held")[0].pid)  # give up, requeue, begin again
    deployment.wait_for_computations("held", 2)
    deployment.open_gate("go")
    assert [first.result(timeout=20)["value"], second.result(timeout=20)["value"]] == ["held", "held"]
    assert producer.pending(first.key).result(timeout=20)["value"] == "held"
    assert producer.peek("slow", {"value": 1}) is not None
    assert producer.invalidate("slow", {"value": 1}) is True
    assert producer.predict("slow", {"value": 1}, tags=["all", "one"], timeout=20)["value"] == 1
    assert producer.invalidate_tag("one") == 1
    assert producer.purge("slow") == 1
    assert producer.submit("unkept", {"value": 3}).result(timeout=20)["value"] == 3
    gone = {"value": "gone", "wait_for": str(deployment.gate("later"))}
    left = producer.submit("slow", gone)
    deployment.wait_for_computations("gone")
    left.cancel()
    deployment.open_gate("later")
    with pytest.raises(Exception, match="no"):
        producer.predict("slow", {"value": "failing", "raise": "no"}, timeout=20)
    refresh_in_vain(guarded, producer)
    age_tags(guarded)
    assert producer.predict("slow", {"value": 1}, tags=["all"], timeout=20)["value"] == 1
    plant(guarded)
    assert producer.predict("slow", {"value": "planted"}, timeout=20)["value"] == "planted"
    lost_and_found(guarded, producer)
    hit_often(guarded, producer)

    near = deployment.producer(near_cache_bytes=10**6)
    wait_until(lambda: near.predict("slow", {"value": 4}, timeout=20)["value"] == 4 and near.near_cache().hits, "near")

    async def on_a_loop() -> None:
        settings = deployment.settings.model_copy(update={"near_cache_bytes": 10**6})
        async with AsyncProducer(settings) as loop_producer:
            while not (await loop_producer.near_cache()).hits:
                assert (await loop_producer.predict("slow", {"value": 5}, timeout=20))["value"] == 5

    asyncio.run(asyncio.wait_for(on_a_loop(), DEADLINE_S))
    worker.terminate()
    assert worker.wait() == 0
    assert guarded.denied() == []


def test_so_do_models_that_ask_models(guarded: Guarded) -> None:
    deployment = guarded.deployment
    guarded.become("worker")
    worker = deployment.start_worker("prefork", 2)
    guarded.become("producer")
    producer = deployment.producer()
    request = {"value": 3, "wait_for": str(deployment.gate("members"))}
    waiting = producer.submit("outer", request)  # whose worker asks, as a producer does, and looks again
    wait_until(lambda: worker.logged("'sent_again': 1") > 1, "it waits for more than a lease")
    deployment.open_gate("members")
    assert waiting.result(timeout=20)["answer"] == 6.0
    assert [producer.predict(model, {"value": 1}, timeout=20) for model in ("sums", "largest")] == [10.0, 4.0]
    assert guarded.denied() == []


def test_so_does_what_is_computed_without_the_cache(guarded: Guarded) -> None:
    deployment = guarded.deployment
    guarded.become("worker")
    worker = deployment.start_worker("threads", 2)
    guarded.become("producer")
    producer = deployment.producer(without_cache="compute")
    assert producer.predict("slow", {"value": 1}, timeout=20)["value"] == 1
    guarded.admins["cache"].config_set("maxmemory", 1)
    assert producer.predict("slow", {"value": 2}, timeout=20)["value"] == 2
    assert producer.outages().sent_without == 1
    guarded.admins["cache"].config_set("maxmemory", 0)
    producer.close()
    worker.terminate()
    assert worker.wait() == 0
    assert guarded.denied() == []


def age_tags(guarded: Guarded) -> None:
    """Let everything that is registered under tags have been so for so long that it goes."""
    cache = guarded.admins["cache"]
    for name in cache.scan_iter("foreseen:t:*"):
        cache.zadd(name, {member: 1 for member in cache.zrange(name, 0, -1) if member})


def refresh_in_vain(guarded: Guarded, producer: Producer) -> None:
    """Have a stale result refreshed, which fails."""
    broken = guarded.deployment.gate("broken")
    request = {"value": "refreshed", "break": str(broken)}
    assert producer.predict("stale", request, timeout=20)["value"] == "refreshed"
    broken.touch()
    wait_until(lambda: producer.submit("stale", request).source is Source.STALE, "its fresh life has ended")
    cache = guarded.admins["cache"]
    counts = KeySpace().statistics(key_of("stale", "1", canonicalize(request)))
    wait_until(lambda: cache.hget(counts, "failed") == "1", "its refresh has failed")


def plant(guarded: Guarded) -> None:
    """Put what cannot be read, and what is of another type, where it has to be removed."""
    space, key = KeySpace(), key_of("slow", "1", canonicalize({"value": "planted"}))
    guarded.admins["cache"].rpush(space.entry(key), "x")


def hit_often(guarded: Guarded, producer: Producer) -> None:
    """Have a key noted among the hottest, in the place of another."""
    request, cache = {"value": "planted"}, guarded.admins["cache"]
    name, digits = KeySpace().hottest_of("slow@1"), key_of("slow", "1", canonicalize(request)).digest[:8]
    cache.hset(name, mapping={f"{number:08x}": 1 for number in range(MOST_HOTTEST)})
    cache.pexpire(name, 60_000)
    wait_until(lambda: producer.predict("slow", request) and cache.hexists(name, digits), "it is noted")


def lost_and_found(guarded: Guarded, producer: Producer) -> None:
    """Lose a message: the look sends it again."""
    deployment = guarded.deployment
    for worker in deployment.workers:
        worker.stop_process()
    pending = producer.submit("slow", {"value": "lost"})
    removed = remove_messages(deployment)
    for worker in deployment.workers:
        worker.continue_process()
    assert pending.result(timeout=30)["value"] == "lost"
    assert removed <= 1


def test_flower_works_with_the_least_rights(guarded: Guarded) -> None:
    deployment = guarded.deployment
    guarded.become("worker")
    deployment.start_worker("threads", 1)
    guarded.become("flower")
    port = free_port()
    command = ["-m", "celery", "-A", "workers", "flower", "--address=127.0.0.1", f"--port={port}"]
    environment = deployment.environment | {"FLOWER_UNAUTHENTICATED_API": "true"}
    log = deployment.directory / "flower.log"
    with log.open("wb") as output:
        flower = subprocess.Popen(
            [sys.executable, *command], env=environment, cwd=deployment.directory, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: told(port, "/healthcheck") is not None, "Flower answers")
        wait_until(lambda: "worker0" in str(told(port, "/api/workers?refresh=1")), "it has asked the worker")
        guarded.become("producer")
        producer = deployment.producer()

        def is_seen() -> bool:
            producer.predict("slow", {"value": time.monotonic()}, timeout=20)
            return "slow@1" in str(told(port, "/api/tasks"))

        wait_until(is_seen, "it hears of a task")
        shows = deployment.producer(events_share=1.0)

        def is_cached() -> bool:
            shows.predict("slow", {"value": "hit"}, timeout=20)
            return "CACHED" in str(told(port, "/api/tasks"))

        wait_until(is_cached, "it hears of a hit")
        held = producer.submit("slow", {"value": "held", "wait_for": str(deployment.gate("go"))})
        waiting = producer.submit("slow", {"value": "waiting"})
        deployment.wait_for_computations("held")
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/task/revoke/{waiting.task_id}", method="POST")
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - ours
        deployment.open_gate("go")
        assert held.result(timeout=20)["value"] == "held"
        with pytest.raises(Revoked):
            waiting.result(timeout=20)
        wait_until(lambda: "foreseen.slow@1" in str(told(port, "/api/queues/length")), "it counts messages")
    finally:
        flower.terminate()
        flower.wait(20)
    assert guarded.denied() == []


def test_so_do_metrics(guarded: Guarded) -> None:
    deployment = guarded.deployment
    guarded.become("worker")
    deployment.start_worker("threads", 1)
    guarded.become("producer")
    with Producer(deployment.settings) as producer:
        held = [producer.submit("slow", {"value": n, "wait_for": str(deployment.gate("go"))}) for n in range(4)]
        deployment.wait_for_computations(0)
        guarded.become("metrics")
        with exporter_over(deployment) as metrics:
            slow = {"model": "slow", "version": "1"}
            wait_until(lambda: metrics.value("foreseen_queue_oldest_age_seconds", **slow), "it sees what waits")
            assert metrics.value("foreseen_server_up", server="cache") == 1
            assert metrics.value("foreseen_workers") == 1
            # Whether any is: after the visibility timeout of these tests it lies in the queue again.
            assert metrics.value("foreseen_unacked_messages") is not None
            deployment.open_gate("go")
            for each in held:
                each.result(timeout=20)
            answers = {**slow, "source": "computed"}
            wait_until(lambda: metrics.value("foreseen_answer_duration_seconds_count", **answers), "measures are told")
            wait_until(lambda: metrics.value("foreseen_model_call_items_count", **slow), "of workers too")
    assert guarded.denied() == []


def told(port: int, path: str) -> str | None:
    """Return what Flower answers, None if it does not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


FORBIDDEN: Final[dict[str, list[tuple[str, tuple[Any, ...]]]]] = {
    "producer": [
        ("cache", ("SET", "foreseen:e:{slow@1:00}:00", "an answer")),
        ("cache", ("HSET", "foreseen:o:{slow@1:00}:00", "token", "an outcome")),
        ("cache", ("PUBLISH", "foreseen:inbox:0", "a push")),
        ("cache", ("SET", "foreseen:card:slow@1", "{}")),
        ("cache", ("SET", "foreseen:current:slow", "2")),
        ("cache", ("GET", "another:key")),
        ("cache", ("SUBSCRIBE", "another:channel")),
        ("broker", ("BRPOP", "foreseen.slow@1", 1)),
        ("broker", ("HGETALL", "unacked")),
        ("broker", ("PUBLISH", "/0.celery.pidbox", "shutdown")),
        ("broker", ("LPUSH", "another.queue", "x")),
    ],
    "worker": [
        ("cache", ("SET", "another:key", "x")),
        ("cache", ("PUBLISH", "another:channel", "x")),
        ("broker", ("LPUSH", "another.queue", "x")),
    ],
    "flower": [
        ("broker", ("LPUSH", "foreseen.slow@1", "a message")),
        ("broker", ("BRPOP", "foreseen.slow@1", 1)),
        ("broker", ("HGETALL", "unacked")),
    ],
    "metrics": [
        ("cache", ("GET", "foreseen:e:{slow@1:00}:00")),
        ("cache", ("HSET", "foreseen:s:{slow@1:00}", "hit", "1")),
        ("broker", ("LPUSH", "foreseen.slow@1", "a message")),
        ("broker", ("HGETALL", "unacked")),
    ],
}
#: Nobody needs them.
EVERYBODYS: Final = (
    ("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("CONFIG", "SET", "maxmemory", "1"), ("ACL", "LIST"),
    ("SHUTDOWN",), ("REPLICAOF", "NO", "ONE"), ("CLIENT", "KILL", "ID", "1"), ("MONITOR",), ("SAVE",),
    ("SCRIPT", "FLUSH"),    ("FUNCTION", "LIST"), ("MODULE", "LIST"), ("EVAL", "return redis.call('FLUSHALL')", "0"),
)  # fmt: skip


@pytest.mark.parametrize("user", FORBIDDEN)
def test_what_a_user_does_not_need_is_refused(guarded: Guarded, user: str) -> None:
    servers = {server for server, _ in FORBIDDEN[user]}
    commands = FORBIDDEN[user] + [(server, command) for server in sorted(servers) for command in EVERYBODYS]
    for server, command in commands:
        with (
            redis.Redis.from_url(guarded.url(server, user), decode_responses=True) as client,
            pytest.raises(redis.exceptions.ResponseError, match=r"ACL|permission|NOPERM"),
        ):
            client.execute_command(*command)
    scripts = [("cache", "return redis.call('SET', KEYS[1], 'x')")] if user == "producer" else []
    for server, script in scripts:  # a script may do no more than who sends it
        with redis.Redis.from_url(guarded.url(server, user), decode_responses=True) as client:
            sha = client.script_load(script)
            with pytest.raises(redis.exceptions.ResponseError, match=r"ACL|permission|NOPERM"):
                client.evalsha(sha, 1, "foreseen:e:{slow@1:00}:00")


def test_who_may_nothing_is_told_so(guarded: Guarded) -> None:
    for server in ("broker", "cache"):
        guarded.admins[server].execute_command("ACL SETUSER", "nobody", "on", f">{PASSWORD}", "-@all", "+ping")
    settings = guarded.become("nobody")
    with pytest.raises((CacheUnavailable, BrokerUnavailable)) as refused, Producer(settings) as producer:
        producer.predict("slow@1", {"value": 1}, timeout=5)
    assert PASSWORD not in str(refused.value)
