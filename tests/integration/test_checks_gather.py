"""What servers really say and refuse, and that looking leaves nothing behind."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from foreseen.checks import CHECKS, at_start, is_fatal
from foreseen.checks.check import run
from foreseen.checks.facts import Facts
from foreseen.checks.gather import broker_facts, cache_facts, sample_keys
from foreseen.embedded import EmbeddedServer
from foreseen.entry import Entry, Kind
from foreseen.settings import Settings

#: What the fix of `refused-commands` gives to the cache's user, with the namespace in its place, and to the broker's.
CACHE_RIGHTS = "~{0}:* &{0}:* +@all -@dangerous +info"
BROKER_RIGHTS = "~* &* +@all -@dangerous +info"


def settings_for(server: EmbeddedServer, namespace: str, user: str = "") -> Settings:
    urls = [server.url(db).replace("//", f"//{user}") for db in (0, 0 if server.url(1).endswith("/0") else 1)]
    return Settings(broker_url=urls[0], cache_url=urls[1], namespace=namespace, reply_timeout_s=2.0)


def found(settings: Settings) -> dict[str, str]:
    facts = Facts(settings, broker_facts(settings), cache_facts(settings), sample=sample_keys(settings))
    return {finding.check: finding.seen for each in run(CHECKS, facts) for finding in each.findings}


@pytest.fixture
def user(server: EmbeddedServer) -> Iterator[Any]:
    """Give rights to a user of the server, and return him as a URL has it."""
    with redis.Redis.from_url(server.url()) as client:

        def give(rights: str) -> str:
            client.execute_command("ACL", "SETUSER", "checked", "reset", "on", ">pw", *rights.split())
            return "checked:pw@"

        yield give
        client.execute_command("ACL", "DELUSER", "checked")


def test_a_server_tells_all_that_the_checks_ask(server: EmbeddedServer, namespace: str) -> None:
    settings = settings_for(server, namespace)
    facts = Facts(settings, broker_facts(settings), cache_facts(settings), sample=sample_keys(settings))
    assert facts.is_shared
    assert abs(facts.cache.clock_ahead_s()) < 0.5
    about_servers = {each.check.name: each.untold for each in run(CHECKS[:17], facts)}
    assert set(about_servers.values()) == {None}
    assert set(found(settings)) == {"forgetful-broker", "unbounded-cache"}


def test_looking_leaves_nothing_behind(server: EmbeddedServer, namespace: str) -> None:
    settings = settings_for(server, namespace)
    found(settings)
    for db in (0, 1):
        with redis.Redis.from_url(server.url(db)) as client:
            assert [key for key in client.keys("*") if b"doctor" in key] == []


def test_what_the_fix_allows_is_enough(server: EmbeddedServer, namespace: str, user: Any) -> None:
    settings = settings_for(server, namespace, user(CACHE_RIGHTS.format(namespace)))
    assert cache_facts(settings).refusals() == ()
    settings = settings_for(server, namespace, user(BROKER_RIGHTS))
    assert broker_facts(settings).refusals() == ()


@pytest.mark.parametrize(
    ("rights", "refused"),
    [
        ("~{0}:* +@all", ["SUBSCRIBE on its channel", "PUBLISH on its channel"]),
        ("~{0}:* &* +@all -publish", ["PUBLISH"]),
        ("~{0}:* &* +@all -hincrby", ["HINCRBY"]),
        ("~{0}:* &* +@all -evalsha", ["EVALSHA"]),
        ("~{0}:* &* +@all -script", ["EVALSHA"]),
    ],
)
def test_what_a_user_of_the_cache_may_not_do_is_found(
    server: EmbeddedServer, namespace: str, user: Any, rights: str, refused: list[str]
) -> None:
    settings = settings_for(server, namespace, user(rights.format(namespace)))
    assert list(cache_facts(settings).refusals()) == refused


def test_keys_outside_what_a_user_may_touch_are_found(server: EmbeddedServer, namespace: str, user: Any) -> None:
    settings = settings_for(server, namespace, user("~elsewhere:* ~unacked* ~_kombu* &* +@all"))
    assert cache_facts(settings).refusals() == ("EVALSHA on its keys",)
    assert "LPUSH on its keys" in broker_facts(settings).refusals()


def test_what_a_user_of_the_broker_may_not_do_is_found(server: EmbeddedServer, namespace: str, user: Any) -> None:
    settings = settings_for(server, namespace, user("~* &* +@all -brpop -zadd"))
    assert list(broker_facts(settings).refusals()) == ["BRPOP", "ZADD"]


@pytest.mark.parametrize(("right", "refused"), [("-time", ["TIME", "EVAL"]), ("-eval", ["EVAL"])])
def test_a_broker_that_may_not_tell_the_time_is_found(
    server: EmbeddedServer, namespace: str, user: Any, right: str, refused: list[str]
) -> None:
    settings = settings_for(server, namespace, user(f"~* &* +@all {right}"))
    assert list(broker_facts(settings).refusals()) == refused


def test_a_worker_may_start_where_it_may_not_ask(server: EmbeddedServer, namespace: str, user: Any) -> None:
    findings, not_looked_at = at_start(settings_for(server, namespace, user("~* &* +@all -info -config -time")))
    # Of the cache's scripts, and of the broker's record of what is unacked: both need TIME.
    assert [finding.check for finding in findings] == ["refused-commands"] * 2
    assert "broker's eviction: the broker does not tell: INFO" in not_looked_at


def test_a_worker_may_start_before_its_servers(namespace: str) -> None:
    settings = Settings(broker_url="redis://127.0.0.1:1/0", cache_url="redis://127.0.0.1:1/1", namespace=namespace)
    findings, not_looked_at = at_start(settings)
    assert findings == []
    assert "broker's eviction: the broker does not answer" in not_looked_at


def test_a_renamed_command_a_full_server_and_a_small_buffer_are_found(namespace: str) -> None:
    config = {
        "rename-command": "PUBLISH said",
        "maxmemory": "1kb",
        "maxmemory-policy": "noeviction",
        "client-output-buffer-limit": "pubsub 1mb 1mb 10",
    }
    with EmbeddedServer(config=config) as server:
        names = found(settings_for(server, namespace))
    assert {"full-broker", "unforgetting-cache", "small-push-buffer"} <= set(names)
    assert names["refused-commands"].endswith("refuses PUBLISH")  # what else a full server refuses is not forbidden


def test_of_another_broker_than_redis_no_more_is_said_than_that_it_answers(namespace: str) -> None:
    broker = broker_facts(Settings(broker_url="memory://", namespace=namespace))
    assert (broker.unavailable, broker.is_redis, broker.denied) == (None, False, None)
    gone = broker_facts(Settings(broker_url="amqp://127.0.0.1:1//", namespace=namespace, connect_timeout_s=0.5))
    assert gone.unavailable


def test_a_server_that_takes_connections_and_stays_silent_is_unavailable_in_time(namespace: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        settings = Settings(
            broker_url=url, cache_url=url, namespace=namespace, connect_timeout_s=0.3, reply_timeout_s=0.3
        )
        began = time.monotonic()
        servers = (broker_facts(settings), cache_facts(settings))
        assert time.monotonic() - began < 5.0
    assert all(server.unavailable for server in servers)


def test_a_replica_is_found(server: EmbeddedServer, namespace: str) -> None:
    with EmbeddedServer(config={"replicaof": f"127.0.0.1 {server.port}"}) as second:
        names = found(settings_for(second, namespace))
    assert "replica" in names
    assert "refused-commands" not in names


def test_a_cluster_as_the_broker_is_refused(cluster_server: EmbeddedServer, namespace: str) -> None:
    settings = Settings(broker_url=cluster_server.url(), cache_url=cluster_server.url(), namespace=namespace)
    findings, _ = at_start(settings)
    assert [finding.check for finding in findings if is_fatal(finding)] == ["clustered-broker"]


def test_keys_that_never_expire_and_long_computations_are_found(namespace: str) -> None:
    entry = Entry(Kind.RESULT, b"g" * 8, 1, 0, 0, 700_000_000, b"payload").encode()
    # A server of its own: only so many keys are looked at, and other tests leave some.
    with EmbeddedServer() as server, redis.Redis.from_url(server.url(1)) as client:
        client.set(f"{namespace}:e:{{shout@1:00}}:{'0' * 40}", entry, px=60_000)
        client.set(f"{namespace}:theirs", "stays")
        names = found(settings_for(server, namespace))
    assert names["lasting-keys"].startswith("1 of 2 keys")
    assert names["long-computations"].startswith("an input took 700 s")


def test_what_nobody_restores_is_found(namespace: str) -> None:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url()) as client:
        client.zadd("unacked_index", {"tag": time.time() - 900, "later": time.time()})
        assert "from 900 s ago" in found(settings_for(server, namespace))["stale-unacked"]
