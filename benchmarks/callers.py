"""64 callers at once: on one event loop, and on threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final

import redis.asyncio

from benchmarks.harness import Comparison, Side, Tell, interleave, whole
from benchmarks.stage import BARE, DEADLINE_S, ECHO, MODEL, Stage, fresh_texts
from producer import AsyncProducer

__all__ = ["CALLERS", "Loop", "Threads", "concurrent_hits", "concurrent_misses"]

CALLERS: Final = 64


class Threads:
    """64 threads; they stay, as those of a web server do."""

    def __init__(self, stack: ExitStack) -> None:
        self._pool = stack.enter_context(ThreadPoolExecutor(CALLERS))

    def side(self, ask: Callable[[str], object], make: Callable[[], list[str]]) -> Side:
        """Return a side that asks for all texts, the next as soon as a thread is free. An answer must be its text."""

        def share(texts: list[str]) -> None:
            left = iter(texts)  # of a list: threads may share it

            def caller(_: int) -> None:
                for text in left:
                    assert ask(text) == text

            list(self._pool.map(caller, range(CALLERS)))

        return whole(share, make)


class Loop:
    """A loop with 64 tasks on it, which runs while a side does."""

    def __init__(self, stack: ExitStack) -> None:
        self._runner = stack.enter_context(asyncio.Runner())
        self._stack = stack

    def opened(self, resource: Any) -> Any:
        """Return what an asynchronous context manager gives; it is left before the loop ends."""
        entered = self.run(resource.__aenter__())
        self._stack.callback(lambda: self.run(resource.__aexit__(None, None, None)))
        return entered

    def run(self, steps: Coroutine[Any, Any, Any]) -> Any:
        """Run until they are through."""
        return self._runner.run(steps)

    def side(self, ask: Callable[[str], Awaitable[object]], make: Callable[[], list[str]]) -> Side:
        """Return a side that asks for all texts, the next as soon as a task is free. An answer must be its text."""

        async def share(texts: list[str]) -> None:
            left = iter(texts)

            async def caller() -> None:
                for text in left:
                    assert await ask(text) == text

            await asyncio.gather(*(caller() for _ in range(CALLERS)))

        return whole(lambda texts: self.run(share(texts)), make)


def concurrent_hits(stage: Stage, tell: Tell) -> list[Comparison]:
    """Hits per second for 64 callers, beside as many GETs of the same 200 bytes.

    Fair: the same server and database, one process, the same number of callers on the same kind: tasks of one loop
    beside redis.asyncio, threads beside redis-py, each with one client and its default pool, in which every caller
    finds a connection. No two callers ask for the same key at the same time; every answer is compared.
    """
    stage.have(ECHO)
    texts = fresh_texts(CALLERS * stage.size.of(2, 32, 32))
    for pending in stage.producer.submit_many(MODEL, texts):
        pending.result(DEADLINE_S)
    stage.client.mset({f"bench:{text}": text for text in texts})
    where = f"{stage.settings.cache_url}?decode_responses=true"

    def known() -> list[str]:
        return texts

    with ExitStack() as stack:
        threads, loop = Threads(stack), Loop(stack)
        producer = loop.opened(AsyncProducer(stage.settings))
        client = loop.opened(redis.asyncio.Redis.from_url(where))
        plain = stack.enter_context(redis.Redis.from_url(where))
        sides = {
            "hits, 64 tasks": loop.side(lambda text: producer.predict(MODEL, text), known),
            "redis.asyncio GETs, 64 tasks": loop.side(lambda text: client.get(f"bench:{text}"), known),
            "hits, 64 threads": threads.side(lambda text: stage.producer.predict(MODEL, text), known),
            "redis-py GETs, 64 threads": threads.side(lambda text: plain.get(f"bench:{text}"), known),
        }
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 15, 50), tell=tell)
    return [
        rounds.rate("hits, 64 tasks", "redis.asyncio GETs, 64 tasks", target=3.0),
        rounds.rate("hits, 64 threads", "redis-py GETs, 64 threads"),
    ]


def concurrent_misses(stage: Stage, tell: Tell) -> list[Comparison]:
    """Misses per second for 64 callers, of a model that does nothing, beside 64 callers of bare Celery.

    Fair: the same server, one prefork process each, the same number of callers. Celery has no asynchronous interface,
    so its callers are threads; foreseen is told both ways. Every text is new, every answer compared.
    """
    stage.have(ECHO, BARE)
    count = CALLERS * stage.size.of(1, 8, 16)

    def fresh() -> list[str]:
        return fresh_texts(count)

    def bare(text: str) -> object:
        return stage.bare.echo.delay(text).get(timeout=DEADLINE_S)

    with ExitStack() as stack:
        threads, loop = Threads(stack), Loop(stack)
        producer = loop.opened(AsyncProducer(stage.settings))
        sides = {
            "misses, 64 tasks": loop.side(lambda text: producer.predict(MODEL, text), fresh),
            "misses, 64 threads": threads.side(lambda text: stage.producer.predict(MODEL, text), fresh),
            "bare Celery delay().get(), 64 threads": threads.side(bare, fresh),
        }
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 8, 20), tell=tell)
    return [
        rounds.rate("misses, 64 tasks", "bare Celery delay().get(), 64 threads", target=5.0),
        rounds.rate("misses, 64 threads", "bare Celery delay().get(), 64 threads"),
    ]
