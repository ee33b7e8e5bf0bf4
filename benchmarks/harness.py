"""Comparing ways of doing one thing on a machine that is never quiet.

Absolute times move with whatever else runs, and with how deep the processor sleeps between two messages. So a figure
here is the ratio of two medians that were taken within the same second or two; reported is the median over many such
rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias, TypeVar

__all__ = [
    "Comparison", "Distribution", "Note", "Rounds", "Side", "Size", "Skipped", "Tell", "Unit", "calls", "compared",
    "interleave", "whole",
]  # fmt: skip

T = TypeVar("T")

#: Called with the number of rounds done, out of how many.
Tell: TypeAlias = Callable[[int, int], object]
#: One round of one way: does its work, checks what came back, and returns the seconds of each operation.
Side: TypeAlias = Callable[[], Sequence[float]]

#: Percentiles that are kept of a distribution; the tail is what people wait for.
PERCENTILES: Final = (1, 2, *range(5, 100, 5), 98, 99, 99.5, 99.9)


class Size(Enum):
    """How long a run takes: a look whether everything works, a few minutes, or a quarter of an hour."""

    SMOKE = "smoke"
    SHORT = "short"
    FULL = "full"

    def of(self, smoke: T, short: T, full: T) -> T:
        """Return what stands for this size."""
        return {Size.SMOKE: smoke, Size.SHORT: short, Size.FULL: full}[self]

    @property
    def patience_s(self) -> float:
        """Seconds after which no further round begins, if there were `least_rounds`."""
        return self.of(1.0, 15.0, 50.0)

    @property
    def least_rounds(self) -> int:
        """Rounds that there are however long they take; quartiles need two."""
        return self.of(2, 2, 4)

    @property
    def bound_s(self) -> float:
        """Seconds after which a measure has failed; ones that take this long hang."""
        return self.of(60.0, 180.0, 420.0)


class Unit(Enum):
    """What a figure counts; of rates, more is better."""

    SECONDS = "s"
    PER_SECOND = "1/s"
    BYTES = "B"


class Skipped(Exception):
    """The measure has nothing to measure here; says why."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure beside its baseline; both are medians over the rounds of each round's median.

    Attributes:
        name: what was measured.
        baseline: what it was measured against.
        unit: of both figures.
        figure: of one operation, or of one item of it.
        baseline_figure: likewise.
        ratio: of figure to baseline, median over the rounds.
        low: lower quartile of the ratio over the rounds.
        high: upper quartile.
        rounds: how many there were.
        target: the ratio to stay at or below, of a rate the one to reach; None if there is none.
    """

    name: str
    baseline: str
    unit: Unit
    figure: float
    baseline_figure: float
    ratio: float
    low: float
    high: float
    rounds: int
    target: float | None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.target is None:
            return None
        return self.ratio >= self.target if self.unit is Unit.PER_SECOND else self.ratio <= self.target


@dataclass(frozen=True, slots=True)
class Distribution:
    """How the times of one way spread, over all rounds.

    Attributes:
        name: of the way.
        seconds: at each of `PERCENTILES`.
    """

    name: str
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """Something measured that has no baseline; told beside the table."""

    text: str


def compared(
    name: str,
    baseline: str,
    figures: Sequence[float],
    baselines: Sequence[float],
    *,
    unit: Unit = Unit.SECONDS,
    target: float | None = None,
) -> Comparison:
    """Compare the figures of rounds with the baseline's of the same rounds."""
    ratios = [figure / base for figure, base in zip(figures, baselines, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
    figure, baseline_figure = statistics.median(figures), statistics.median(baselines)
    return Comparison(name, baseline, unit, figure, baseline_figure, ratio, low, high, len(ratios), target)


class Rounds:
    """What the sides took in interleaved rounds.

    Args:
        times: by side, one sequence of seconds for each round.
    """

    def __init__(self, times: Mapping[str, Sequence[Sequence[float]]]) -> None:
        self._times = times
        self._medians = {side: [statistics.median(each) for each in rounds] for side, rounds in times.items()}

    def time(self, figure: str, baseline: str, *, target: float | None = None) -> Comparison:
        """Compare the times of one operation of two sides."""
        return compared(figure, baseline, self._medians[figure], self._medians[baseline], target=target)

    def rate(self, figure: str, baseline: str, *, target: float | None = None) -> Comparison:
        """Compare how many operations per second two sides do."""
        figures, baselines = ([1 / seconds for seconds in self._medians[side]] for side in (figure, baseline))
        return compared(figure, baseline, figures, baselines, unit=Unit.PER_SECOND, target=target)

    def fastest(self, *sides: str) -> str:
        """Return which of the sides takes the least time."""
        return min(sides, key=lambda side: statistics.median(self._medians[side]))

    def distributions(self, *sides: str) -> list[Distribution]:
        """Return how the times of sides spread."""
        return [Distribution(side, _percentiles([t for each in self._times[side] for t in each])) for side in sides]


def calls(operation: Callable[[], object], count: int) -> Side:
    """Return a side that times each of `count` calls; the operation raises if it does not do what it is to do."""

    def side() -> list[float]:
        times: list[float] = []
        for _ in range(count):
            began = time.perf_counter()
            operation()
            times.append(time.perf_counter() - began)
        return times

    return side


def whole(work: Callable[[list[T]], object], make: Callable[[], list[T]]) -> Side:
    """Return a side that times the work over all items that `make` gives it for a round; its one time is per item."""

    def side() -> tuple[float]:
        items = make()
        began = time.perf_counter()
        work(items)
        return ((time.perf_counter() - began) / len(items),)

    return side


def interleave(sides: Mapping[str, Side], *, size: Size, rounds: int, tell: Tell, warm_up: bool = True) -> Rounds:
    """Run the sides in turn, A, B, A, B.

    Args:
        sides: by what they are called in tables.
        size: of the run, for how long further rounds begin.
        rounds: that count, at most.
        tell: called after each round.
        warm_up: run one round more, first, so that caches and connections are warm; where a round takes seconds, they
            do not matter.
    """
    if warm_up:
        for side in sides.values():
            side()
    times: dict[str, list[Sequence[float]]] = {side: [] for side in sides}
    until = time.monotonic() + size.patience_s
    for done in range(rounds):
        if done >= size.least_rounds and time.monotonic() > until:
            break
        for name, side in sides.items():
            times[name].append(side())
        tell(done + 1, rounds)
    return Rounds(times)


def _percentiles(times: list[float]) -> tuple[float, ...]:
    ordered = sorted(times)
    return tuple(ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] for percent in PERCENTILES)
