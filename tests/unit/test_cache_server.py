"""Which URLs name a cache server, and what a `sentinel://` one says."""

from __future__ import annotations

import pytest
from redis.asyncio.sentinel import SentinelManagedConnection as AsyncSentinelManagedConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection as AsyncSentinelManagedSSLConnection
from redis.connection import Connection
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - the driver's
    MovedError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from foreseen.cache_server import (
    AsyncCacheServer,
    CacheServer,
    Nodes,
    Service,
    read_nodes,
    read_service,
    without_password,
)
from foreseen.errors import Misconfigured
from foreseen.nodes import Node
from foreseen.refusals import BecameReplica, is_replica, said_by
from foreseen.settings import Settings


def test_a_cluster_is_named_by_some_of_its_nodes() -> None:
    nodes = read_nodes("clusters://me:p%40ss@a,b:1,[::1]:2?ssl_ca_certs=ca.pem")
    assert nodes == Nodes(
        (Node("a", 6379), Node("b", 1), Node("::1", 2)), "rediss", "me:p%40ss@", "?ssl_ca_certs=ca.pem"
    )
    assert nodes.url(nodes.seeds[2]) == "rediss://me:p%40ss@[::1]:2/0?ssl_ca_certs=ca.pem"
    assert read_nodes("redis://a/1") is None
    plain = read_nodes("cluster://a")
    assert plain is not None
    assert plain.url(Node("a", 1)) == "redis://a:1/0"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("cluster://a/1", "a cluster has no databases"),
        ("cluster://", "a node without a host"),
        ("cluster://a,", "a node without a host"),
        ("cluster://a:b", "FORESEEN_CACHE_URL"),
    ],
)
def test_what_is_wrong_with_a_cluster_s_url_is_said(url: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=f"FORESEEN_CACHE_URL: .*{said}|{said}"):
        Settings(cache_url=url)


def test_a_service_is_named_with_its_sentinels() -> None:
    assert read_service("sentinel://a,b:1,[::1]:2/predictions/3") == Service(
        (("a", 26379), ("b", 1), ("::1", 2)), "predictions", {"db": 3, "username": None, "password": None}, {}, {}
    )
    assert read_service("redis://a/1") is None


def test_servers_and_sentinels_have_logins_of_their_own() -> None:
    service = read_service("sentinel://me:p%40ss@a:1/predictions?sentinel_username=you&sentinel_password=word")
    assert service is not None
    assert service.login == {"db": 0, "username": "me", "password": "p@ss"}
    assert service.sentinel_login == {"username": "you", "password": "word"}


def test_servers_and_sentinels_are_both_talked_to_encrypted_or_neither() -> None:
    options = "ssl_ca_certs=/etc/own.pem&ssl_check_hostname=false&sentinel_password=word"
    service = read_service(f"sentinels://a/predictions?{options}")
    assert service is not None
    assert service.tls == {"ssl": True, "ssl_ca_certs": "/etc/own.pem", "ssl_check_hostname": False}
    assert service.sentinel_login == {"password": "word"}
    settings = Settings(cache_url="sentinels://a/predictions")
    assert isinstance(CacheServer(settings).pool().make_connection(), SentinelManagedSSLConnection)
    assert issubclass(AsyncCacheServer(settings).pool().connection_class, AsyncSentinelManagedSSLConnection)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sentinel://a:1", "no service is named"),
        ("sentinel://a:1/", "no service is named"),
        ("sentinel:///predictions", "without a host"),
        ("sentinel://a:1,/predictions", "without a host"),
        ("sentinel://a:b/predictions", "FORESEEN_CACHE_URL"),
        ("sentinel://a:1/predictions/first", "no database number"),
        ("sentinel://a:1/predictions/1?master_name=b", "'master_name' is no option"),
        ("sentinel://a:1/predictions/1?ssl_ca_certs=a", "for TLS it is sentinels://"),
        ("sentinels://a:1/predictions/1?master_name=b", "'master_name' is no option"),
        ("sentinel://a:1/predictions/1?", ""),
    ],
)
def test_what_a_service_lacks_is_said(url: str, said: str) -> None:
    if not said:
        assert Settings(cache_url=url).cache_url == url
        return
    with pytest.raises(Misconfigured, match=f"FORESEEN_CACHE_URL: .*{said}|{said}"):
        Settings(cache_url=url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:secret@a:1/1", "redis://a:1/1"),
        ("redis://a:1/1?password=secret", "redis://a:1/1"),
        ("redis://a:1/1?db=2", "redis://a:1/1?db=2"),
        ("cluster://me:secret@a,b:1", "cluster://a,b:1"),
        ("sentinel://:secret@a,b/predictions/1?sentinel_password=secret", "sentinel://a,b/predictions/1"),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_connections_are_the_driver_s_for_either_kind() -> None:
    plain, watched = Settings(cache_url="redis://a/1"), Settings(cache_url="sentinel://a,b/predictions/1")
    assert type(CacheServer(plain).pool().make_connection()) is Connection
    pool = CacheServer(watched).pool()
    assert isinstance(pool.make_connection(), SentinelManagedConnection)
    assert isinstance(AsyncCacheServer(watched).pool().connection_class, type)
    assert issubclass(AsyncCacheServer(watched).pool().connection_class, AsyncSentinelManagedConnection)


@pytest.mark.parametrize(
    "error",
    [
        ReadOnlyError("You can't write against a read only replica.", status_code="READONLY"),
        ResponseError("Error running script (call to f_1): @user_script:1: -READONLY You can't write"),
        BecameReplica("…"),
        ConnectionError("The previous master is now a slave"),
    ],
)
def test_a_replica_is_known_by_what_it_says(error: Exception) -> None:
    assert is_replica(error)
    assert "is a replica" in said_by(error, "redis://a")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OutOfMemoryError("command not allowed", status_code="OOM"), "is full and evicts nothing"),
        (BusyLoadingError("Redis is loading", status_code="LOADING"), "reads its data"),
        (ResponseError("MISCONF Errors writing to the AOF file"), "could not save its data"),
        (ResponseError("Error running script: @user_script:1: -MISCONF Errors"), "could not save its data"),
        (ResponseError("NOREPLICAS Not enough good replicas"), "too few replicas"),
        (MovedError("1 a:2", status_code="MOVED"), "set FORESEEN_CACHE_URL to cluster://"),
        (ResponseError("SELECT is not allowed in cluster mode"), "has no databases"),
        (TryAgainError("Multiple keys", status_code="TRYAGAIN"), "is being given the slot"),
        (ResponseError("ERR something"), "refused: ERR something"),
        (ConnectionError("Connection refused"), "does not answer: Connection refused"),
    ],
)
def test_what_others_say_is_explained(error: Exception, said: str) -> None:
    assert not is_replica(error)
    assert said in said_by(error, "redis://a")
