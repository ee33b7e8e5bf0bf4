"""What a cache is for: some inputs are asked for often, most rarely."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from typing import Final

import redis

from benchmarks.callers import CALLERS, Loop, Threads
from benchmarks.harness import Comparison, Tell, interleave
from benchmarks.stage import BARE, BARE_THREADS, DEADLINE_S, Stage, Worker, fresh_texts, settings_for
from producer import AsyncProducer, Producer

__all__ = ["zipf"]

_MODEL: Final = "bench-device"
_INPUTS: Final = 1000
_EXPONENT: Final = 1.1
_EXPIRY_S: Final = 3600
_OURS: Final = Worker("workers", "benchmarks.slow_models", _MODEL, "threads", CALLERS, "foreseen-device")


def zipf(stage: Stage, tell: Tell) -> list[Comparison]:
    """5,000 requests by 64 callers over 1,000 inputs that nobody has asked for yet, drawn with weight 1/rank^1.1.

    A batch costs 5 ms and 0.2 ms for each item in it. The baseline is the cache-aside of the textbooks: GET, on a miss
    `delay().get()`, then SETEX, over bare Celery.

    Fair: the same server, the same sequence, 64 callers, one device, which computes one batch at a time and takes the
    processor from nobody. foreseen's worker has a pool of 64 threads; cache-aside runs over the same pool and over a
    prefork process, and the faster one counts. Its callers are threads, since Celery has no asynchronous interface;
    foreseen is told both ways. What two callers miss at once it computes twice, and it has no batches: that is what is
    measured. Every answer is compared.
    """
    stage.have(_OURS, BARE, BARE_THREADS)
    count = stage.size.of(100, 5000, 5000)
    ranks = range(_INPUTS)
    drawn = random.Random(1).choices(ranks, [1 / (rank + 1) ** _EXPONENT for rank in ranks], k=count)

    def requests() -> list[str]:
        texts = fresh_texts(_INPUTS)
        return [texts[rank] for rank in drawn]

    with ExitStack() as stack:
        threads, loop = Threads(stack), Loop(stack)
        settings = settings_for(stage.server, namespace=_OURS.name)
        producer = loop.opened(AsyncProducer(settings))
        blocking = stack.enter_context(Producer(settings))
        client = stack.enter_context(redis.Redis.from_url(stage.server.url(3), decode_responses=True))
        over = {f"cache-aside over bare Celery, {each.pool} pool": each for each in (BARE, BARE_THREADS)}
        sides = {
            "Zipf(1.1), 64 tasks": loop.side(lambda text: producer.predict(_MODEL, text), requests),
            "Zipf(1.1), 64 threads": threads.side(lambda text: blocking.predict(_MODEL, text), requests),
            **{name: threads.side(_cache_aside(stage, client, worker), requests) for name, worker in over.items()},
        }
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 3, 8), tell=tell, warm_up=False)
    baseline = rounds.fastest(*over)
    return [
        rounds.rate("Zipf(1.1), 64 tasks", baseline, target=5.0),
        rounds.rate("Zipf(1.1), 64 threads", baseline),
    ]


def _cache_aside(stage: Stage, client: redis.Redis, worker: Worker) -> Callable[[str], object]:
    """Return what an application writes around Celery."""

    def ask(text: str) -> object:
        key = f"aside:{sha256(text.encode()).hexdigest()}"
        known = client.get(key)
        if known is not None:
            return known
        answer: str = stage.bare.device.apply_async((text,), queue=worker.name).get(timeout=DEADLINE_S)
        client.setex(key, _EXPIRY_S, answer)
        return answer

    return ask
