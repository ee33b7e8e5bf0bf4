"""Misses, beside bare Celery with its Redis result backend: same server, same pool, one process each."""

from __future__ import annotations

from celery import group

from benchmarks.harness import Comparison, Distribution, Tell, calls, interleave, whole
from benchmarks.stage import BARE, DEADLINE_S, ECHO, MODEL, Stage, fresh_text, fresh_texts

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

    Fair: the same server, one prefork process each, one caller who waits for all. The model takes batches of up to 256,
    which is what they are for; Celery has none, and a group is its own way for many. Every answer is compared.
    """
    stage.have(ECHO, BARE)
    count = stage.size.of(100, 5000, 5000)

    def misses(texts: list[str]) -> None:
        assert [pending.result(DEADLINE_S) for pending in stage.producer.submit_many(MODEL, texts)] == texts

    def bare(texts: list[str]) -> None:
        assert group(stage.bare.echo.s(text) for text in texts).apply_async().get(timeout=DEADLINE_S) == texts

    sides = {
        f"{count:,} misses, submit_many": whole(misses, lambda: fresh_texts(count)),
        f"bare Celery group of {count:,}": whole(bare, lambda: fresh_texts(count)),
    }
    rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 3, 8), tell=tell, warm_up=False)
    return [rounds.rate(*sides, target=20.0)]
