"""Threads that share a process's connections to the cache: their calls gather, and each gets what it asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import redis

from foreseen.cache import Cache
from foreseen.embedded import EmbeddedServer
from foreseen.errors import CacheUnavailable
from foreseen.settings import Settings

N_THREADS = 40
WAIT_S = 20.0


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


class Counting(Cache):
    """Counts round trips."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.trips: list[int] = []

    def _exchange(self, connection: Any, packed: bytes, n_commands: int) -> list[Any]:
        self.trips.append(n_commands)
        return super()._exchange(connection, packed, n_commands)


@pytest.fixture
def cache(server: EmbeddedServer) -> Iterator[Counting]:
    cache = Counting(Settings(cache_url=server.url(1), max_connections=3))
    yield cache
    cache.close()


@pytest.fixture
def admin(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url(1)) as admin:
        yield admin
        admin.client_unpause()


def held_up(cache: Counting, admin: redis.Redis, meanwhile: Callable[[], object]) -> Sequence[Future[list[Any]]]:
    """Have each thread set and get a key of its own while the server takes no writes; do `meanwhile`, then let it."""
    admin.client_pause(60_000, all=False)
    with ThreadPoolExecutor(N_THREADS) as threads:
        asked = [
            threads.submit(cache.commands, [("SET", f"held:{n}", n), ("GET", f"held:{n}")]) for n in range(N_THREADS)
        ]
        waited = threading.Event()
        while len(cache._gathering._waiting) < N_THREADS - 3:
            waited.wait(0.002)
        meanwhile()
        admin.client_unpause()
    return asked


def test_what_they_ask_while_every_connection_is_busy_shares_the_next(cache: Counting, admin: redis.Redis) -> None:
    asked = held_up(cache, admin, lambda: None)
    assert [each.result(WAIT_S) for each in asked] == [[b"OK", b"%d" % n] for n in range(N_THREADS)]
    assert sum(cache.trips) == 2 * N_THREADS
    assert len(cache.trips) <= 6


def test_over_connections_that_die_all_of_it_is_sent_again(cache: Counting, admin: redis.Redis) -> None:
    def kill() -> None:
        mine = admin.client_id()
        for client in admin.client_list():
            if int(client["id"]) != mine:
                admin.client_kill_filter(_id=client["id"])

    asked = held_up(cache, admin, kill)
    assert [each.result(WAIT_S) for each in asked] == [[b"OK", b"%d" % n] for n in range(N_THREADS)]


def test_each_hears_himself_that_the_server_refuses(cache: Counting, admin: redis.Redis) -> None:
    """What one asks wrongly is his own error, whoever carries it."""
    admin.client_pause(60_000, all=False)
    with ThreadPoolExecutor(N_THREADS) as threads:
        asked = [
            threads.submit(cache.commands, [("SET", "a", n), ("HGET", "a", "b")] if n % 2 else [("SET", "c", n)])
            for n in range(N_THREADS)
        ]
        waited = threading.Event()
        while len(cache._gathering._waiting) < N_THREADS - 3:
            waited.wait(0.002)
        admin.client_unpause()
    for n, each in enumerate(asked):
        if n % 2:
            assert isinstance(each.exception(WAIT_S), CacheUnavailable)
        else:
            assert each.result(WAIT_S) == [b"OK"]


def test_a_server_that_is_away_is_told_to_each_with_an_error_of_his_own() -> None:
    with EmbeddedServer() as gone:
        url = gone.url(1)
    cache = Cache(Settings(cache_url=url, max_connections=2))
    with ThreadPoolExecutor(N_THREADS) as threads:
        asked = [threads.submit(cache.commands, [("PING",)]) for _ in range(N_THREADS)]
        errors = [each.exception(WAIT_S) for each in asked]
    assert {type(error) for error in errors} == {CacheUnavailable}
    assert len({id(error) for error in errors}) == N_THREADS
    assert cache.outage.told().calls_failed == N_THREADS


def only_the_admin_is_connected(admin: redis.Redis) -> bool:
    """Whether the server sees no other client any more; it may take a moment to notice who has left."""
    gone = threading.Event()
    for _ in range(1000):
        if len(admin.client_list()) == 1:
            return True
        gone.wait(0.005)
    return False


def test_a_call_after_close_leaves_no_connection_open(cache: Counting, admin: redis.Redis) -> None:
    cache.commands([("PING",)])
    cache.close()
    assert cache.commands([("PING",)]) == [b"PONG"]
    assert only_the_admin_is_connected(admin)


def test_a_call_during_close_leaves_none_open_either(server: EmbeddedServer, admin: redis.Redis) -> None:
    """It has its replies when the others are closed, and gives its connection back after that."""

    class ClosedMeanwhile(Cache):
        def _carry(self, connection: Any, parcels: Sequence[Any]) -> list[list[Any]]:
            told = super()._carry(connection, parcels)
            self.close()
            return told

    cache = ClosedMeanwhile(Settings(cache_url=server.url(1), max_connections=2))
    assert cache.commands([("PING",)]) == [b"PONG"]
    assert only_the_admin_is_connected(admin)
