from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # test folders are no packages: see acceptance/conftest.py

from soak.growth import trend

SAMPLES = 200


def noise(seed: int, spread: float = 5.0) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(100, spread) for _ in range(SAMPLES)]


class TestTrend:
    def test_what_stands_still_does_not_grow(self) -> None:
        found = trend([100.0] * SAMPLES, tolerance=0.5)
        assert (found.level, found.rise, found.score, found.grows) == (100.0, 0.0, 0, False)

    def test_what_only_trembles_does_not_grow(self) -> None:
        assert not any(trend(noise(seed), tolerance=3.0).grows for seed in range(50))

    def test_a_slow_leak_under_noise_grows(self) -> None:
        leak = [value + 20 * place / SAMPLES for place, value in enumerate(noise(1))]
        found = trend(leak, tolerance=3.0)
        assert found.grows
        assert 15 < found.rise < 25

    def test_what_stays_below_the_tolerance_does_not(self) -> None:
        leak = [value + 20 * place / SAMPLES for place, value in enumerate(noise(1))]
        assert not trend(leak, tolerance=30.0).grows

    def test_one_that_is_lost_for_each_tenth_of_the_time_grows(self) -> None:
        assert trend([10.0 + 10 * place // SAMPLES for place in range(SAMPLES)], tolerance=0.5).grows

    def test_what_falls_does_not_grow(self) -> None:
        assert not trend([100.0 - place for place in range(SAMPLES)], tolerance=0.5).grows

    def test_a_peak_that_passes_is_none(self) -> None:
        peak = [100.0] * SAMPLES
        peak[80:110] = [500.0] * 30
        assert not trend(peak, tolerance=0.5).grows
