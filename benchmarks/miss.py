"""Misses, beside bare Celery with its Redis result backend, on the same server."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from celery import group

from benchmarks.harness import Comparison, Distribution, Side, Tell, calls, interleave, whole
from benchmarks.stage import (
    BARE,
    BARE_THREADS,
    DEADLINE_S,
    ECHO,
    ECHO_THREADS,
    MODEL,
    Stage,
    fresh_text,
    fresh_texts,
    settings_for,
)
from producer import Producer

__all__ = ["many_misses", "single_miss"]


def single_miss(stage: Stage, tell: Tell) -> list[Comparison | Distribution]:
    """`predict` of what nobody has asked for, beside `delay().get()`.

    Fair: the same server, one prefork process each, one caller, 200 bytes in and out, and Celery's events off, which is
    its default. Every answer is compared.
    """
    stage.have(ECHO, BARE)

    def miss() -> None:
        text = fresh_text()
        assert stage.producer.predict(MODEL, text) == text

    def bare() -> None:
        text = fresh_text()
        assert stage.bare.echo.delay(text).get(timeout=DEADLINE_S) == text

    count = stage.size.of(5, 30, 40)
    sides = {"miss": calls(miss, count), "bare Celery delay().get()": calls(bare, count)}
    rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 60, 150), tell=tell)
    return [rounds.time(*sides, target=0.60), *rounds.distributions(*sides)]


def many_misses(stage: Stage, tell: Tell) -> list[Comparison]:
    """5,000 distinct misses through `submit_many`, of a model that does nothing, beside a `group` of as many tasks.

    Fair: the same server, one caller who waits for all, and each side with the pool of two that suits it better: one
    prefork process, or 64 threads. The model takes batches of up to 256, which is what they are for; Celery has none,
    and a group is its own way for many. Every answer is compared.
    """
    stage.have(ECHO, ECHO_THREADS, BARE, BARE_THREADS)
    count = stage.size.of(100, 5000, 5000)

    def fresh() -> list[str]:
        return fresh_texts(count)

    def misses(producer: Producer, texts: list[str]) -> None:
        assert [pending.result(DEADLINE_S) for pending in producer.submit_many(MODEL, texts)] == texts

    def tasks(queue: str, texts: list[str]) -> None:
        asked = group(stage.bare.echo.s(text).set(queue=queue) for text in texts)
        assert asked.apply_async().get(timeout=DEADLINE_S) == texts

    with ExitStack() as stack:
        ours: dict[str, Side] = {}
        bare: dict[str, Side] = {}
        for worker, other in ((ECHO, BARE), (ECHO_THREADS, BARE_THREADS)):
            producer = stack.enter_context(Producer(settings_for(stage.server, namespace=worker.name)))
            ours[f"{count:,} misses, submit_many, {worker.pool} pool"] = whole(partial(misses, producer), fresh)
            bare[f"bare Celery group of {count:,}, {other.pool} pool"] = whole(partial(tasks, other.name), fresh)
        rounds = interleave(ours | bare, size=stage.size, rounds=stage.size.of(2, 3, 8), tell=tell, warm_up=False)
    return [rounds.rate(rounds.fastest(*ours), rounds.fastest(*bare), target=20.0)]
