"""What was found of a model's contract: checks that passed or failed, and what batch sizes cost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["Check", "Cost", "Report", "Verdict"]

#: A batch size is good enough if an item costs no more than so much above the cheapest size.
_GOOD_ENOUGH: Final = 1.1


class Verdict(StrEnum):
    """What a check came to."""

    PASSED = "passed"
    FAILED = "failed"
    UNTRIED = "untried"


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, whether it is kept, and what was seen, for a person."""

    name: str
    verdict: Verdict
    seen: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What a batch size costs: seconds of one call, the best of several, checks of inputs and outputs included."""

    batch_size: int
    call_s: float

    @property
    def item_s(self) -> float:
        """Seconds an item."""
        return self.call_s / self.batch_size


@dataclass(frozen=True, slots=True)
class Report:
    """What was found of a model.

    Attributes:
        model_id: `name@version`.
        checks: in the order in which they were tried; those after a failure that leaves nothing to try are missing.
        costs: by batch size, from 1 to the model's `max_batch_size`; empty if a check failed.
        max_batch_size: of the model.
    """

    model_id: str
    checks: tuple[Check, ...]
    costs: tuple[Cost, ...]
    max_batch_size: int

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.verdict is not Verdict.FAILED for check in self.checks)

    @property
    def suggested_batch_size(self) -> int | None:
        """The smallest size at which an item costs hardly more than at the cheapest one; None if none was measured."""
        best = min((cost.item_s for cost in self.costs), default=0.0)
        return next((cost.batch_size for cost in self.costs if cost.item_s <= best * _GOOD_ENOUGH), None)

    def __str__(self) -> str:
        """Return a line for each check, for a test's message."""
        return "\n".join([self.model_id, *(f"  {one.verdict}: {one.name}: {one.seen}" for one in self.checks)])
