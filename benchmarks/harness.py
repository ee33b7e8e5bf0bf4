"""Comparing two ways of doing one thing on a machine that is never quiet.

Absolute times move with whatever else runs, and with how deep the processor sleeps between two messages. So a figure
here is the ratio of two medians that were taken within the same second; reported is the median over many such rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Comparison", "Tell", "compare"]

#: Called with the number of rounds done, out of how many.
Tell: TypeAlias = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure beside its baseline; times are seconds, medians over the rounds of each round's p50.

    Attributes:
        name: what was measured.
        baseline: what it was measured against.
        figure_s: of one operation, or of one item of it.
        baseline_s: likewise.
        ratio: median over the rounds.
        low: lower quartile of the ratio over the rounds.
        high: upper quartile.
        rounds: how many there were.
        target: the ratio to stay at or below; None if there is none.
    """

    name: str
    baseline: str
    figure_s: float
    baseline_s: float
    ratio: float
    low: float
    high: float
    rounds: int
    target: float | None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        return None if self.target is None else self.ratio <= self.target


def compare(
    name: str,
    operation: Callable[[], object],
    baseline_name: str,
    baseline: Callable[[], object],
    *,
    rounds: int,
    calls: int,
    items: int = 1,
    target: float | None = None,
    tell: Tell,
) -> Comparison:
    """Run both in turn, A, B, A, B, and compare the medians of each pair.

    Args:
        name: of the operation, for people.
        operation: what is measured; raises if it does not do what it is to do.
        baseline_name: of the baseline, for people.
        baseline: what it is measured against.
        rounds: pairs that count; one more runs first, so that caches and connections are warm.
        calls: of each side in each round.
        items: that one call works on; times are per item.
        target: the ratio to stay at or below.
        tell: called after each round.

    Returns:
        The medians, and how far the ratios of the single rounds spread.
    """
    figures: list[float] = []
    baselines: list[float] = []
    for done in range(rounds + 1):
        figure, base = _p50(operation, calls) / items, _p50(baseline, calls) / items
        if done:
            figures.append(figure)
            baselines.append(base)
        tell(done, rounds)
    ratios = [figure / base for figure, base in zip(figures, baselines, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    return Comparison(
        name, baseline_name, statistics.median(figures), statistics.median(baselines), ratio, low, high, rounds, target
    )


def _p50(operation: Callable[[], object], calls: int) -> float:
    """Return the median time of one call, in seconds."""
    times: list[int] = []
    for _ in range(calls):
        began = time.perf_counter_ns()
        operation()
        times.append(time.perf_counter_ns() - began)
    return statistics.median(times) / 1e9
