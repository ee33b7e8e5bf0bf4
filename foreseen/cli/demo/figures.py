"""What a pass of the demo brought, and what must hold of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from foreseen.cache import Cache
from foreseen.cli.demo.caller import Answers
from foreseen.keys import BUCKETS, KeySpace
from producer import Source

__all__ = ["Figures", "Pass", "computations", "summarize"]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass.

    Attributes:
        name: cold, warm or herd.
        requests: that were made.
        distinct: contents among them, counted by their SHA-256.
        hits: requests that an entry answered.
        coalesced: requests that joined a computation under way.
        computed: times that the model ran, counted where it ran.
        expected: times that it must have run.
        wall_s: from the first request to the last answer.
        p50_ms: half of the requests had their answer within this.
        p99_ms: 99 of 100 requests had theirs within this.
    """

    name: str
    requests: int
    distinct: int
    hits: int
    coalesced: int
    computed: int
    expected: int
    wall_s: float
    p50_ms: float
    p99_ms: float

    def wrong(self) -> list[str]:
        """Return what does not add up, in words."""
        wrong: list[str] = []
        if self.computed != self.expected:
            wrong.append(f"{self.name}: the model ran {self.computed:,} times; {self.expected:,} were needed")
        if (answered := self.hits + self.coalesced + self.expected) != self.requests:
            wrong.append(
                f"{self.name}: {self.hits:,} hits, {self.coalesced:,} coalesced and {self.expected:,} computed are "
                f"{answered:,} answers to {self.requests:,} requests"
            )
        return wrong


@dataclass(frozen=True, slots=True)
class Figures:
    """All passes.

    Attributes:
        passes: in order.
        rounds: of the herd.
        disagreeing: rounds of the herd in which not everybody got the same answer.
    """

    passes: Sequence[Pass]
    rounds: int
    disagreeing: int

    def wrong(self) -> list[str]:
        """Return what does not add up, in words; nothing if all is well."""
        wrong = [line for each in self.passes for line in each.wrong()]
        if self.disagreeing:
            wrong.append(f"herd: in {self.disagreeing} rounds of {self.rounds} not everybody got the same answer")
        return wrong

    def as_json(self) -> dict[str, Any]:
        """Return them as JSON values."""
        return {
            "ok": not self.wrong(),
            "passes": [asdict(each) for each in self.passes],
            "herd_rounds": self.rounds,
            "wrong": self.wrong(),
        }


def summarize(
    name: str, told: Sequence[Answers], *, distinct: int, expected: int, computed: int, wall_s: float
) -> Pass:
    """Sum up what the processes told of a pass."""
    answered = [each for answers in told for each in answers.answered]
    sources = Counter(source for source, _ in answered)
    latencies_ms = sorted(latency_s * 1000 for _, latency_s in answered)
    return Pass(
        name, len(answered), distinct, sources[Source.HIT], sources[Source.COALESCED], computed, expected,
        round(wall_s, 4), round(_within(latencies_ms, 0.5), 3), round(_within(latencies_ms, 0.99), 3),
    )  # fmt: skip


def computations(cache: Cache, space: KeySpace, model_id: str) -> int:
    """Return how often workers have begun to run a model for a key, as they themselves noted it at each begin.

    Counted at the begin and not at the end: a second run whose result nobody took would have been one too many as well.
    """
    names = [space.statistics_of(model_id, bucket) for bucket in BUCKETS]
    return sum(int(count or 0) for count in cache.commands([("HGET", name, "begun") for name in names]))


def _within(sorted_values: Sequence[float], part: float) -> float:
    """Return the least value that `part` of all values do not exceed (nearest rank)."""
    return sorted_values[max(0, math.ceil(part * len(sorted_values)) - 1)] if sorted_values else 0.0
