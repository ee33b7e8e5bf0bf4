"""A steady load against real worker processes; says whether anything grows, draws it, and exits 1 if it does."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from acceptance.harness import Deployment
from rich.console import Console
from rich.table import Table

from foreseen.embedded import EmbeddedServer
from soak.growth import Trend, trend
from soak.measure import TOLERANCES, Series, Soaked, sample
from soak.picture import draw

__all__ = ["Soak", "main"]

FACES: Final = ("sync", "async")
WORKERS: Final = 2
SLOTS: Final = 2
#: Of each producer, a quarter of what two cores can do: what grows is to be seen, not how it copes.
REQUESTS_PER_SECOND: Final = 60
#: Of the time, before anything is judged: entries come and go by then, and allocators have taken what they keep.
WARM_UP: Final = 1 / 3
SAMPLES: Final = 300
_END_S: Final = 60.0


@dataclass(frozen=True)
class Outcome:
    """What was seen.

    Attributes:
        minutes: of each sample, from the first.
        seen: by series, a value for each sample.
        done: what producers were told, by name.
    """

    minutes: Sequence[float]
    seen: Mapping[Series, Sequence[float]]
    done: Counter[str]

    @property
    def first_judged(self) -> int:
        """The first sample after the warm-up."""
        return sum(minute < self.minutes[-1] * WARM_UP for minute in self.minutes)

    def trends(self) -> dict[Series, Trend]:
        """Return what each series does after the warm-up."""
        trends: dict[Series, Trend] = {}
        for series, values in self.seen.items():
            judged = values[self.first_judged :]
            share, least = TOLERANCES[series.unit]
            trends[series] = trend(judged, max(least, share * max(judged)))
        return trends

    def problems(self) -> list[str]:
        """Return what must not be, in words."""
        found = [
            f"{series.what}: {series.unit} grow by {each.rise:.1f}"
            for series, each in self.trends().items()
            if each.grows
        ]
        found += [
            f"{series.what}: up to {max(values):g} {series.unit}"
            for series, values in self.seen.items()
            if series.unit == "keys without expiry" and max(values)
        ]
        found += [
            f"told {count} times: {name}" for name, count in self.done.items() if name not in {"answered", "gave up"}
        ]
        return found


class Soak:
    """One run.

    Args:
        seconds: of load.
        directory: where logs go.
    """

    def __init__(self, seconds: float, directory: Path) -> None:
        self._seconds = seconds
        self._directory = directory

    def run(self) -> Outcome:
        """Start everything, measure it under load, and end it."""
        with self._deployment() as (deployment, servers), self._producers(deployment) as producers:
            processes: dict[str, psutil.Process] = {}
            for name, producer in producers.items():
                processes[name] = psutil.Process(producer.pid)
            for number, worker in enumerate(deployment.workers):
                processes[f"worker {number}"] = psutil.Process(worker.pid)
                for place, child in enumerate(sorted(worker.children(), key=lambda child: child.pid)):
                    processes[f"worker {number}, child {place}"] = child
            samples = self._measure(Soaked(servers, processes))
            done = self._stop(producers)
        minutes = [(at - samples[0][0]) / 60 for at, _ in samples]
        return Outcome(minutes, {series: [seen[series] for _, seen in samples] for series in samples[0][1]}, done)

    def _measure(self, soaked: Soaked) -> list[tuple[float, dict[Series, float]]]:
        samples = [sample(soaked)]
        began = samples[0][0]
        for number in range(1, SAMPLES + 1):
            time.sleep(max(0.0, began + number * self._seconds / SAMPLES - time.monotonic()))
            samples.append(sample(soaked))
        return samples

    @contextmanager
    def _deployment(self) -> Iterator[tuple[Deployment, dict[str, EmbeddedServer]]]:
        deployment = Deployment(self._directory, models=("served.stamped",), lease_s=2.0, visibility_timeout_s=8.0)
        with EmbeddedServer() as cache, deployment:
            deployment.use_cache(cache.url(0))
            deployment.start_workers(WORKERS, concurrency=SLOTS)
            yield deployment, {"cache": cache, "broker": deployment.server}

    @contextmanager
    def _producers(self, deployment: Deployment) -> Iterator[dict[str, subprocess.Popen[str]]]:
        producers: dict[str, subprocess.Popen[str]] = {}
        try:
            for seed, face in enumerate(FACES):
                command = [sys.executable, "-m", "soak.load", face, str(REQUESTS_PER_SECOND), str(seed)]
                producers[f"producer ({face})"] = subprocess.Popen(
                    command, env=deployment.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            yield producers
        finally:
            for producer in producers.values():
                producer.kill()
                producer.communicate()

    @staticmethod
    def _stop(producers: Mapping[str, subprocess.Popen[str]]) -> Counter[str]:
        done: Counter[str] = Counter()
        for producer in producers.values():
            said, _ = producer.communicate(timeout=_END_S)  # closes its input, which ends it
            done.update(json.loads(said)["done"])
        return done


def main() -> int:
    """Run, report, draw."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=900.0, help="of load (default %(default)s)")
    parser.add_argument("--samples", type=Path, help="write what was measured into this file, as JSON")
    parser.add_argument("--picture", type=Path, default=Path("docs/soak.png"), help="(default %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        outcome = Soak(arguments.seconds, Path(directory)).run()
    if arguments.samples:
        seen = {f"{series.what}: {series.unit}": values for series, values in outcome.seen.items()}
        arguments.samples.write_text(json.dumps({"minutes": outcome.minutes, **seen}))
    draw(arguments.picture, outcome.minutes, outcome.seen, outcome.minutes[-1] * WARM_UP)
    problems = report(Console(), outcome)
    return int(bool(problems))


def report(console: Console, outcome: Outcome) -> list[str]:
    """Print what each series does, and what must not be; return the latter."""
    minutes = outcome.minutes[-1]
    table = Table("", "", "median", "rise", "sign", title=f"{minutes * (1 - WARM_UP):.1f} of {minutes:.1f} minutes")
    for series, each in outcome.trends().items():
        marks = "grows" if each.grows else ""
        table.add_row(series.what, series.unit, f"{each.level:,.1f}", f"{each.rise:+,.2f}", f"{each.score:+d} {marks}")
    console.print(table)
    told = ", ".join(f"{count:,} {name}" for name, count in outcome.done.most_common())
    console.print(f"{sum(outcome.done.values()):,} requests: {told}")
    problems = outcome.problems()
    for problem in problems or ["nothing grows"]:
        console.print(problem)
    return problems


if __name__ == "__main__":
    sys.exit(main())
