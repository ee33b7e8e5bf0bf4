"""Round trips on a loop: what is asked at once goes together, and nobody's trouble is another's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from foreseen.async_cache import AsyncCache
from foreseen.cache import Cache
from foreseen.embedded import EmbeddedServer
from foreseen.errors import CacheUnavailable
from foreseen.flights import Call, Joined
from foreseen.scripts import Script

if TYPE_CHECKING:
    from conftest import Steps

DEADLINE_S = 20.0


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await test()

    asyncio.run(bounded())


def writes(cache: AsyncCache, noted: list[int]) -> None:
    """Note the number of commands in each round trip."""
    exchange = cache._exchange

    async def exchange_noted(packed: bytes, count: int) -> list[Any]:
        noted.append(count)
        return await exchange(packed, count)

    cache._exchange = exchange_noted  # type: ignore[method-assign]


def test_what_is_asked_at_once_travels_together_and_each_gets_its_own(steps: Steps) -> None:
    async def test() -> None:
        cache, noted = AsyncCache(steps.settings), list[int]()
        await cache.commands([("PING",)])
        writes(cache, noted)
        replies = await asyncio.gather(*(cache.commands([("ECHO", f"{n}"), ("ECHO", n)]) for n in range(100)))
        assert replies == [[f"{n}".encode()] * 2 for n in range(100)]
        assert sum(noted) == 200
        assert len(noted) <= 3  # of at most 128 commands each
        await cache.close()

    run(test)


def test_a_lone_caller_waits_for_nobody(steps: Steps) -> None:
    async def test() -> None:
        cache, noted = AsyncCache(steps.settings), list[int]()
        writes(cache, noted)
        for n in range(3):
            assert await cache.commands([("ECHO", n)]) == [b"%d" % n]
        assert noted == [1, 1, 1]
        await cache.close()

    run(test)


def test_a_round_trip_takes_one_task(steps: Steps) -> None:
    """Each costs more than the command that it is made for."""

    async def test() -> None:
        cache, made = AsyncCache(steps.settings), list[object]()
        await cache.commands([("PING",)])
        await asyncio.sleep(0)

        def make(loop: asyncio.AbstractEventLoop, coroutine: Any) -> asyncio.Task[Any]:
            made.append(coroutine)
            return asyncio.Task(coroutine, loop=loop)

        asyncio.get_running_loop().set_task_factory(make)  # type: ignore[arg-type, unused-ignore]
        await cache.commands([("PING",)])
        assert len(made) == 1
        await cache.close()

    run(test)


def test_a_script_that_is_missing_is_loaded(steps: Steps) -> None:
    async def test() -> None:
        steps.redis.script_flush()
        cache = AsyncCache(steps.settings)
        first, second = await cache.run([steps.flights.join(steps.ticket(name)) for name in "ab"])
        assert isinstance(first, Joined)
        assert isinstance(second, Joined)
        assert (first.led, second.led) == (True, False)
        await cache.close()

    run(test)


def test_a_script_that_is_flushed_as_soon_as_it_is_loaded_runs_all_the_same(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if somebody's SCRIPT FLUSH came between the two: on a loop, and on a thread."""
    nothing: list[Any] = []
    monkeypatch.setattr("foreseen.async_cache.loads", lambda _: nothing)
    monkeypatch.setattr("foreseen.cache.loads", lambda _: nothing)

    async def test() -> None:
        steps.redis.script_flush()
        cache = AsyncCache(steps.settings)
        (joined,) = await cache.run([steps.flights.join(steps.ticket("a"))])
        assert isinstance(joined, Joined)
        await cache.close()

    run(test)
    steps.redis.script_flush()
    on_a_thread = Cache(steps.settings)
    (joined,) = on_a_thread.run([steps.flights.join(steps.ticket("b"))])
    assert isinstance(joined, Joined)
    on_a_thread.close()


def test_one_caller_s_refusal_is_no_other_s(steps: Steps) -> None:
    async def test() -> None:
        cache = AsyncCache(steps.settings)
        good, bad, also_good = await asyncio.gather(
            cache.commands([("ECHO", "a")]), cache.commands([("ECHO",)]), cache.commands([("ECHO", "b")]),
            return_exceptions=True,
        )  # fmt: skip
        assert (good, also_good) == ([b"a"], [b"b"])
        assert isinstance(bad, CacheUnavailable)
        await cache.close()

    run(test)


def test_who_is_cancelled_takes_nobody_s_reply_along(steps: Steps) -> None:
    async def test() -> None:
        cache = AsyncCache(steps.settings)
        await cache.commands([("PING",)])
        for passes in range(6):
            tasks = [asyncio.create_task(cache.commands([("ECHO", n)])) for n in range(20)]
            for _ in range(passes):
                await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            for n, reply in enumerate(done):
                assert reply == [b"%d" % n] or (n % 3 == 0 and isinstance(reply, asyncio.CancelledError))
        await cache.close()

    run(test)


def test_a_connection_that_the_server_closed_is_replaced(steps: Steps) -> None:
    async def test() -> None:
        cache = AsyncCache(steps.settings)
        (mine,) = await cache.commands([("CLIENT", "ID")])
        steps.redis.client_kill_filter(_id=mine)
        assert await cache.commands([("ECHO", "again")]) == [b"again"]
        await cache.close()

    run(test)


def test_a_server_that_does_not_answer_in_time_is_said_to_all_who_wait(
    server: EmbeddedServer, steps_on: Callable[..., Steps]
) -> None:
    settings = steps_on(server.url(1)).settings.model_copy(update={"reply_timeout_s": 0.3})

    async def test() -> None:
        cache = AsyncCache(settings)
        await cache.commands([("PING",)])
        blocked = [cache.commands([("BLPOP", f"{settings.namespace}:never", 5)]), cache.commands([("PING",)])]
        outcomes = await asyncio.gather(*blocked, return_exceptions=True)
        assert [type(each) for each in outcomes] == [CacheUnavailable, CacheUnavailable]
        assert "no reply within 0.3 s" in str(outcomes[0])
        assert await cache.commands([("ECHO", "after")]) == [b"after"]
        await cache.close()

    run(test)


def test_closing_tells_who_waits(steps: Steps) -> None:
    async def test() -> None:
        cache = AsyncCache(steps.settings)
        await cache.commands([("PING",)])
        waiting = asyncio.create_task(cache.commands([("BLPOP", f"{steps.settings.namespace}:never", 5)]))
        await asyncio.sleep(0.05)
        await cache.close()
        with pytest.raises(CacheUnavailable, match="closed"):
            await waiting

    run(test)


def test_a_script_s_own_error_is_said(steps: Steps) -> None:
    text = "return redis.call('INCR', KEYS[1])"
    sha = str(steps.redis.script_load(text))
    steps.redis.set(f"{steps.space.namespace}:text", "no number", px=60_000)

    async def test() -> None:
        cache = AsyncCache(steps.settings)
        with pytest.raises(CacheUnavailable, match="not an integer"):
            await cache.run([Call(Script("broken", text, sha), (f"{steps.space.namespace}:text",), (), int)])
        await cache.close()

    run(test)
