"""Measures: histograms of how long things take and how much goes together, by model, in every process.

Each process adds up its own and tells the cache every other second; there the sums of all processes stand in one hash
for each model, which `foreseen metrics` reads. So a producer that lives for a second is measured like any other, and
no process has to be found by who collects. One that dies takes with it what it has not told.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from foreseen.keys import KeySpace
from foreseen.parcels import Command

__all__ = [
    "ANSWER",
    "HISTOGRAMS",
    "ITEMS",
    "MODEL_CALL",
    "QUEUED",
    "Histogram",
    "Measured",
    "Measures",
    "parse",
    "read",
]

#: From a hit (a third of a millisecond) to what a person no longer waits for.
_DURATIONS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
_ITEMS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
#: Sums are kept as integers, so that they add up exactly.
_MICRO: Final = 1_000_000


class Histogram(NamedTuple):
    """Something measured.

    Attributes:
        name: in the cache.
        bounds: of its buckets, each with what equals it; one more takes what is above the last.
    """

    name: str
    bounds: tuple[float, ...]


ANSWER: Final = Histogram("answer", _DURATIONS)
"""Seconds from when a submission was made to its answer, by its source. One hit in 16 is timed, and counts for all."""
QUEUED: Final = Histogram("queued", _DURATIONS)
"""Seconds from when a message was sent to when its items are begun, by the cache server's clock."""
MODEL_CALL: Final = Histogram("call", _DURATIONS)
"""Seconds of what is given to a model at once, item by item if it fails as a whole."""
ITEMS: Final = Histogram("items", _ITEMS)
"""How many items that is."""

HISTOGRAMS: Final = {each.name: each for each in (ANSWER, QUEUED, MODEL_CALL, ITEMS)}


class Measured(NamedTuple):
    """What all processes together have measured.

    Attributes:
        counts: of each bucket, in order; not cumulative.
        total: sum of the values.
    """

    counts: Sequence[int]
    total: float


class Measures:
    """What one process has measured since it last told. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}

    def note(self, model_id: str, histogram: Histogram, value: float, label: str = "", weight: int = 1) -> None:
        """Note a value, for as many as `weight` that it stands for."""
        bucket = f"{histogram.name}:{label}:{bisect_left(histogram.bounds, value)}"
        total = f"{histogram.name}:{label}:sum"
        with self._lock:
            counts = self._counts.get(model_id)
            if counts is None:
                counts = self._counts[model_id] = Counter()
            counts[bucket] += weight
            counts[total] += max(0, round(value * _MICRO * weight))

    def take(self) -> dict[str, Counter[str]]:
        """Return what is to be added in the cache, by model and field, and begin anew."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return counts


def read(space: KeySpace, model_id: str) -> list[Command]:
    """Return the command that reads the measures of `model@version`."""
    return [("HGETALL", space.measures_of(model_id))]


def parse(replies: Sequence[Sequence[bytes]]) -> dict[tuple[Histogram, str], Measured]:
    """Return what was measured, by histogram and label; fields of another release's are left out."""
    from foreseen.statistics import count_in

    (flat,) = replies
    fields = {name.decode(errors="replace"): count_in(count) for name, count in zip(flat[::2], flat[1::2], strict=True)}
    found: dict[tuple[Histogram, str], Measured] = {}
    for name, value in fields.items():
        which, _, rest = name.partition(":")
        label, _, part = rest.partition(":")
        histogram = HISTOGRAMS.get(which)
        if histogram is None or part != "sum":
            continue
        places = range(len(histogram.bounds) + 1)
        counts = tuple(fields.get(f"{which}:{label}:{place}", 0) for place in places)
        found[histogram, label] = Measured(counts, value / _MICRO)
    return found
