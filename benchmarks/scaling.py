"""Whether four processes do four times the work of one."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from benchmarks.harness import Comparison, Side, Tell, interleave, whole
from benchmarks.stage import DEADLINE_S, Stage, Worker, fresh_texts, settings_for
from producer import Producer

__all__ = ["scaling"]

_MODEL: Final = "bench-sleeper"
_ONE: Final = Worker("workers", "benchmarks.slow_models", _MODEL, "prefork", 1, "foreseen-one")
_FOUR: Final = Worker("workers", "benchmarks.slow_models", _MODEL, "prefork", 4, "foreseen-four")


def scaling(stage: Stage, tell: Tell) -> list[Comparison]:
    """Computations per second of a model that sleeps for 20 ms, one item at a time, in four processes beside one.

    Fair: both workers run all the while, on the same server, in namespaces of their own; each gets as many texts for
    each of its processes, all submitted at once. Every answer is compared.
    """
    stage.have(_ONE, _FOUR)
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for worker, name in ((_FOUR, "four processes, a model of 20 ms"), (_ONE, "one process")):
            producer = stack.enter_context(Producer(settings_for(stage.server, namespace=worker.name)))
            sides[name] = _computations(producer, worker.slots * stage.size.of(5, 40, 50))
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 5, 10), tell=tell)
    return [rounds.rate(*sides, target=3.8)]


def _computations(producer: Producer, count: int) -> Side:
    def compute(texts: list[str]) -> None:
        assert [pending.result(DEADLINE_S) for pending in producer.submit_many(_MODEL, texts)] == texts

    return whole(compute, lambda: fresh_texts(count))
