"""Whether a series of measurements grows: a robust slope, and how sure one can be of it."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Trend", "trend"]

#: Medians of so many parts of the time are compared with each other: neighbouring measurements say nearly the same, and
#: would count as proof of what they merely repeat.
PARTS: Final = 10
#: Of the 45 pairs among ten parts, those in which the later is higher less those in which it is lower. Of ten unrelated
#: numbers one series in 120 reaches it (Mann and Kendall's test, one-sided); a series that grows reaches 45.
SURE: Final = 27


@dataclass(frozen=True)
class Trend:
    """What a series does.

    Attributes:
        level: its median.
        rise: over the whole time, by the median of all slopes between two parts (Theil and Sen's estimate).
        score: -45, it falls all the time, to 45, it rises all the time.
        grows: it rises by more than was tolerated, and not by chance.
    """

    level: float
    rise: float
    score: int
    grows: bool


def trend(values: Sequence[float], tolerance: float) -> Trend:
    """Return what evenly spaced measurements do.

    Args:
        values: at least `PARTS`.
        tolerance: the rise over the whole time that is none.
    """
    bounds = [round(place * len(values) / PARTS) for place in range(PARTS + 1)]
    medians = [statistics.median(values[start:end]) for start, end in itertools.pairwise(bounds)]
    pairs = list(itertools.combinations(enumerate(medians), 2))
    slopes = [(later - earlier) / (j - i) for (i, earlier), (j, later) in pairs]
    rise = statistics.median(slopes) * PARTS
    score = sum((slope > 0) - (slope < 0) for slope in slopes)
    return Trend(statistics.median(values), rise, score, rise > tolerance and score >= SURE)
