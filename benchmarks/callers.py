"""64 callers at once: on one event loop, and on threads of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import redis.asyncio

from benchmarks.harness import Comparison, Side, Tell, interleave, whole
from benchmarks.stage import (
    BARE,
    BARE_THREADS,
    DEADLINE_S,
    ECHO,
    ECHO_THREADS,
    MODEL,
    Stage,
    fresh_texts,
    settings_for,
)
from producer import AsyncProducer, Producer

__all__ = ["CALLERS", "Loop", "Threads", "concurrent_hits", "concurrent_misses"]

CALLERS: Final = 64
_CLOSE_S: Final = 10.0


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

            try:
                list(self._pool.map(caller, range(CALLERS)))
            finally:
                list(left)  # if this was interrupted, nobody is to take another

        return whole(share, make)


class Loop:
    """A loop with 64 tasks on it, on a thread of its own: what interrupts a run is not to be raised inside a task."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="loop", daemon=True)
        self._thread.start()
        stack.callback(self._close)

    def opened(self, resource: Any) -> Any:
        """Return what an asynchronous context manager gives; it is left before the loop ends."""
        entered = self.run(resource.__aenter__())
        self._stack.callback(lambda: self.run(resource.__aexit__(None, None, None), _CLOSE_S))
        return entered

    def run(self, steps: Coroutine[Any, Any, Any], timeout_s: float | None = None) -> Any:
        """Run steps on the loop; they are cancelled if this is interrupted."""
        running = asyncio.run_coroutine_threadsafe(steps, self._loop)
        try:
            return running.result(timeout_s)
        except BaseException:
            running.cancel()
            raise

    def _close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)
        self._loop.close()

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

    Fair: the same server, the same number of callers, and each side with the pool of two that suits it better: one
    prefork process, or 64 threads. Celery has no asynchronous interface, so its callers are threads; foreseen is told
    both ways. Every text is new, every answer compared.
    """
    stage.have(ECHO, ECHO_THREADS, BARE, BARE_THREADS)
    count = CALLERS * stage.size.of(1, 4, 8)

    def fresh() -> list[str]:
        return fresh_texts(count)

    with ExitStack() as stack:
        threads, loop = Threads(stack), Loop(stack)
        on_loop: dict[str, Side] = {}
        on_threads: dict[str, Side] = {}
        bare: dict[str, Side] = {}
        for ours, theirs in ((ECHO, BARE), (ECHO_THREADS, BARE_THREADS)):
            settings = settings_for(stage.server, namespace=ours.name)
            producer = loop.opened(AsyncProducer(settings))
            blocking = stack.enter_context(Producer(settings))
            on_loop[f"misses, 64 tasks, {ours.pool} pool"] = loop.side(partial(producer.predict, MODEL), fresh)
            on_threads[f"misses, 64 threads, {ours.pool} pool"] = threads.side(partial(blocking.predict, MODEL), fresh)
            bare[f"bare Celery, 64 threads, {theirs.pool} pool"] = threads.side(partial(stage.ask_bare, theirs), fresh)
        sides = on_loop | on_threads | bare
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 6, 20), tell=tell)
    baseline = rounds.fastest(*bare)
    return [
        rounds.rate(rounds.fastest(*on_loop), baseline, target=5.0),
        rounds.rate(rounds.fastest(*on_threads), baseline),
    ]
