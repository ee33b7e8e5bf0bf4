"""The phases of a run, one after the other, and the table of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from asking import Asking, Told
from deployment import Deployment, expect, wait_for

__all__ = ["HEAD", "TWO_LEASES_S", "Course", "Phase", "line_of", "markdown", "together"]

#: How long each phase lasts beyond what it waits for; one in which something dies lasts two leases.
_PHASE_S = 8
TWO_LEASES_S = 20


@dataclass(frozen=True)
class Phase:
    """One line of the table.

    Attributes:
        name: what was done.
        workers: how many there were.
        seconds: how long it took.
        answered: requests that were answered.
        failed: requests that failed.
        refused: how often a request was told that a server is away, and was asked again.
        restarts: containers that were started again.
        slowest_s: the longest that a request took, with all that it was refused.
    """

    name: str
    workers: str
    seconds: float
    answered: int
    failed: int
    refused: Counter[str]
    restarts: int
    slowest_s: float


def together(asking: Sequence[Asking]) -> Told:
    """Return what all producers have told, added up."""
    told = [each.told for each in asking]
    return Told(
        asked=sum(each.asked for each in told),
        answered=sum(each.answered for each in told),
        failed=sum(each.failed for each in told),
        refused=sum((Counter(each.refused) for each in told), Counter[str]()),
        sources=sum((Counter(each.sources) for each in told), Counter[str]()),
        checked=sum(each.checked or 0 for each in told),
        errors=[error for each in told for error in each.errors],
    )


class Course:
    """The phases, one after the other."""

    def __init__(self, deployment: Deployment, asking: Sequence[Asking]) -> None:
        self.deployment = deployment
        self.asking = asking
        self.phases: list[Phase] = []

    @contextmanager
    def phase(self, name: str, *, lasts_s: float = _PHASE_S, may_refuse: bool = False) -> Iterator[None]:
        """Count what is asked while the block runs, and for some seconds after it.

        Args:
            name: of what is done.
            lasts_s: after the block.
            may_refuse: whether callers may be told that a server is away; if not, that is wrong.
        """
        before, began, starts = together(self.asking), time.monotonic(), self.deployment.starts()
        workers = str(len(self.deployment.workers()))
        yield
        time.sleep(lasts_s)
        for each in self.asking:
            each.check()
        now, starts_now = str(len(self.deployment.workers())), self.deployment.starts()
        restarts = sum(starts_now.get(each, when) != when for each, when in starts.items())
        phase = self._note(name, workers if now == workers else f"{workers} to {now}", before, began, restarts)
        expect(may_refuse or not phase.refused, f"{name}: callers were told {dict(phase.refused)}")

    def finish(self) -> None:
        """Have the producers ask for nothing more, count what was still open, and let them check their answers."""
        before, began = together(self.asking), time.monotonic()
        for each in self.asking:
            each.stop()
        wait_for(self._all_are_answered, "all that was asked is answered")
        self._note("the rest", str(len(self.deployment.workers())), before, began, 0)
        for each in self.asking:
            expect(each.finish() == 0, f"the producer {each.name} ended with an error")
        told = together(self.asking)
        expect(told.asked == told.answered + told.failed, f"of {told.asked} requests {told.answered} were answered")

    def _all_are_answered(self) -> bool:
        return all(each.told.checked is not None for each in self.asking)  # which they begin after that

    def _note(self, name: str, workers: str, before: Told, began: float, restarts: int) -> Phase:
        now = together(self.asking)
        slowest_s = max((slow for each in self.asking for when, slow in each.slowest_s if when >= began), default=0.0)
        phase = Phase(
            name,
            workers,
            time.monotonic() - began,
            now.answered - before.answered,
            now.failed - before.failed,
            Counter(now.refused) - Counter(before.refused),
            restarts,
            slowest_s,
        )
        self.phases.append(phase)
        print(line_of(phase), flush=True)
        return phase


HEAD = f"{'phase':<38} workers   time requests failures refused restarts  slowest"


def line_of(phase: Phase) -> str:
    """Return a line of the table, for a terminal."""
    return (
        f"{phase.name:<38} {phase.workers:>7} {phase.seconds:>4.0f} s {phase.answered + phase.failed:>8,} "
        f"{phase.failed:>8,} {phase.refused.total():>7,} {phase.restarts:>8} {phase.slowest_s:>6.1f} s"
    )


def markdown(phases: Sequence[Phase]) -> str:
    """Return the table, for a page."""
    rows = [
        f"| {one.name} | {one.workers} | {one.seconds:.0f} s | {one.answered + one.failed:,} | {one.failed:,} "
        f"| {', '.join(f'{count:,} {name}' for name, count in one.refused.items()) or '0'} | {one.restarts} "
        f"| {one.slowest_s:.1f} s |"
        for one in phases
    ]
    head = "| phase | workers | time | requests | failures | refused, and asked again | restarts | slowest answer |"
    return "\n".join([head, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |", *rows])
