"""A near cache and the connection that keeps it honest, on real servers: Valkey, and Redis where it is installed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import pytest
import redis

from foreseen import embedded
from foreseen.async_cache import AsyncCache
from foreseen.cache import Cache
from foreseen.client.aio_tracking import AsyncTracking
from foreseen.client.near import Near
from foreseen.client.tracking import Tracked, Tracking
from foreseen.embedded import EmbeddedServer
from foreseen.outcome import Result
from foreseen.settings import Settings

if TYPE_CHECKING:
    from conftest import Steps

DEADLINE_S: Final = 20.0


@pytest.fixture(scope="module", params=["valkey", "redis"])
def own_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """A server that these tests may flush, and whose connections they may kill."""
    binary = shutil.which("redis-server")
    if request.param == "redis" and binary is None:
        pytest.skip("needs redis-server")
    with contextlib.ExitStack() as stack:
        if request.param == "redis" and binary is not None:
            stack.enter_context(mock.patch.object(embedded, "_server_binary", return_value=Path(binary)))
        yield stack.enter_context(EmbeddedServer())


@pytest.fixture
def on(own_server: EmbeddedServer, steps_on: Callable[..., Steps]) -> Steps:
    """The protocol's steps there, as any other process makes them."""
    return steps_on(own_server.url(1))


@contextlib.contextmanager
def in_a_thread(near: Near, settings: Settings) -> Iterator[Any]:
    cache = Cache(settings)
    tracking = Tracking(Tracked(near, near._space), cache)
    tracking.start()
    try:
        yield cache
    finally:
        tracking.stop()
        cache.close()
    assert not tracking._thread.is_alive()


@contextlib.contextmanager
def on_a_loop(near: Near, settings: Settings) -> Iterator[Any]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def call(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(DEADLINE_S)

    async def start() -> tuple[AsyncCache, AsyncTracking]:
        cache = AsyncCache(settings)
        tracking = AsyncTracking(Tracked(near, near._space), cache, settings)
        tracking.start()
        return cache, tracking

    cache, tracking = call(start())
    try:
        yield cache
    finally:
        call(tracking.stop())
        call(cache.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()


@pytest.fixture(params=[in_a_thread, on_a_loop])
def follow(request: pytest.FixtureRequest) -> Any:
    """Have the server's changes told to a near cache, in a `with`."""
    return request.param


@pytest.fixture
def near(on: Steps, follow: Any, eventually: Callable[..., None]) -> Iterator[Near]:
    """A near cache that is on."""
    near = Near(on.space, 10**6)
    with follow(near, on.settings):
        eventually(lambda: near.told().is_on)
        yield near
    assert not near.told().is_on


def keep(near: Near, on: Steps) -> None:
    """Compute the key, if there is no entry, and look it up; its own time is far off."""
    entry = on.entry() or on.compute()
    entry = entry._replace(fresh_until_ms=entry.fresh_until_ms + 3_600_000)
    near.insert(near.sent(), on.key, None, entry, entry.outcome())
    assert near.find(on.key) == Result("first")


def kept(near: Near, on: Steps, eventually: Callable[..., None]) -> None:
    """Compute the key, and keep it near once the server has told that it was written."""
    name = on.space.entry(on.key)
    before = near._changed.get(name, 0)
    on.compute()
    eventually(lambda: near._changed.get(name, 0) > before)
    keep(near, on)


def test_what_others_change_is_heard(near: Near, on: Steps, eventually: Callable[..., None]) -> None:
    for change in (on.invalidate, on.purge):
        kept(near, on, eventually)
        change()
        eventually(lambda: near.find(on.key) is None)
        assert near.told().is_on
    kept(near, on, eventually)
    joined = on.joined(refresh=True)
    on.finish(on.begin(joined), value="second")
    eventually(lambda: near.find(on.key) is None)


def test_what_expires_is_heard(near: Near, on: Steps, eventually: Callable[..., None]) -> None:
    """The server finds it without being asked, within a tenth of a second or so."""
    kept(near, on, eventually)
    on.redis.pexpire(on.space.entry(on.key), 1500)
    eventually(lambda: near.find(on.key) is None)  # that is a change, too
    keep(near, on)
    eventually(lambda: near.find(on.key) is None)
    assert on.entry() is None


def test_a_generation_that_is_gone_is_heard(near: Near, on: Steps, eventually: Callable[..., None]) -> None:
    kept(near, on, eventually)
    on.redis.delete(on.space.generation(on.key))
    eventually(lambda: near.find(on.key) is None)


def test_flushall_empties(near: Near, on: Steps, eventually: Callable[..., None]) -> None:
    kept(near, on, eventually)
    on.redis.flushall()
    eventually(lambda: near.told().entries == 0)
    assert near.told().emptied == 1
    assert near.told().is_on


def test_what_is_no_entry_and_no_generation_is_not_told(near: Near, on: Steps, eventually: Callable[..., None]) -> None:
    """Flights, counters and statistics change with every miss."""
    kept(near, on, eventually)
    heard = near._heard
    for name in (on.space.flight(on.key), on.space.clock(on.key), on.space.statistics(on.key), "another:e:x"):
        on.redis.hset(name, "field", 1)
        on.redis.expire(name, 60)
    on.redis.delete("another:e:x")
    on.invalidate()
    eventually(lambda: near.find(on.key) is None)
    assert near._heard == heard + 1


def test_connection_lost_empties_and_turns_off_and_back_turns_on(
    near: Near, on: Steps, eventually: Callable[..., None]
) -> None:
    kept(near, on, eventually)
    on.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    eventually(lambda: near.told().emptied == 1)
    assert near.find(on.key) is None
    eventually(lambda: near.told().is_on)
    keep(near, on)
    on.invalidate()
    eventually(lambda: near.find(on.key) is None)


def test_a_server_that_is_gone_and_comes_back(
    near: Near, on: Steps, own_server: EmbeddedServer, eventually: Callable[..., None]
) -> None:
    kept(near, on, eventually)
    own_server.restart()
    on.redis.ping()
    eventually(lambda: near.told().emptied == 1 and near.told().is_on)
    assert near.find(on.key) is None


def test_another_master_is_followed(on: Steps, follow: Any, eventually: Callable[..., None]) -> None:
    """Who finds out that the server has become a replica counts a move; this connection may be with the old one."""
    near = Near(on.space, 10**6)
    with follow(near, on.settings) as cache:
        eventually(lambda: near.told().is_on)
        kept(near, on, eventually)
        cache.moves += 1
        eventually(lambda: near.told().emptied == 1 and near.told().is_on)


def test_a_server_that_refuses_is_told_of_once_and_the_near_cache_stays_off(
    on: Steps, follow: Any, eventually: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(on.settings.cache_url) as admin:
        admin.execute_command("ACL", "SETUSER", "nearly", "on", ">secret", "~*", "&*", "+@all", "-client|tracking")
        url = on.settings.cache_url.replace("redis://", "redis://nearly:secret@")
        near = Near(on.space, 10**6)
        with (
            caplog.at_level(logging.WARNING, "foreseen.client"),
            follow(near, on.settings.model_copy(update={"cache_url": url})),
        ):
            eventually(lambda: caplog.messages)
            assert not near.told().is_on
        admin.execute_command("ACL", "DELUSER", "nearly")
    (told,) = caplog.messages
    assert told.startswith("The near cache stays off, since the cache server refuses to tell of changes: ")
    assert "secret" not in told
