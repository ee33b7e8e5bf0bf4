"""An item on its way through a worker: what a delivery has begun, and is to finish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from foreseen.errors import DeadlineExceeded, PredictionFailed, TooManyAttempts, VersionGone
from foreseen.holding import Begin, Begun, Finished
from foreseen.message import Item, Message

__all__ = ["LATE", "UNPREPARED", "Delivery", "Run", "refusal_of"]

LATE: Final = object()
"""In an outcome's place: it was not computed before its deadline, as far as this delivery knows that."""

UNPREPARED: Final = object()
"""In the place of features: those of its model's stage are to be looked up, or there is none."""


class Delivery(NamedTuple):
    """A message as it was delivered, the nonce of this run of it, and, if its version has no workers left, that."""

    message: Message
    holder: str
    gone: VersionGone | None = None


@dataclass(slots=True, eq=False)
class Run:
    """An item that a delivery is to finish.

    Attributes:
        delivery: that it came in.
        item: what is computed.
        begun: what begin said.
        outcome: see `workers.compute`, or `LATE`; a plain output stands for one that is `Unkept` too.
        features: what its model's stage made of the input, if that is known.
        is_kept: its model has nothing against the outcome's being kept.
        kept_s: how long it is kept at most, whatever its model's policy says.
        cost_us: of computing it.
        deadline_at: monotonic seconds.
        attempt: how often it is computed with this one.
        pause_s: it is computed again after so long; None if it is not.
        finished: what became of the outcome, once it was told.
        span: OpenTelemetry's, if who asked is traced.
    """

    delivery: Delivery
    item: Item
    begun: Begun
    outcome: Any = None
    features: Any = UNPREPARED
    is_kept: bool = True
    kept_s: float = float("inf")
    cost_us: int = 0
    deadline_at: float = float("inf")
    attempt: int = 1
    pause_s: float | None = None
    finished: Finished | None = None
    span: Any = None

    @property
    def is_direct(self) -> bool:
        """Whether it is computed without a flight: its outcome goes back by the broker, or is an audit's."""
        return bool(self.delivery.message.reply_to)

    @property
    def is_audit(self) -> bool:
        """Whether its outcome is compared with its entry, and told to nobody."""
        return self.delivery.message.is_audit

    @property
    def priority(self) -> int:
        """As its message has it."""
        return self.delivery.message.priority


def refusal_of(begun: Begun, item: Item) -> PredictionFailed | None:
    """Return the failure with which begin wants an item finished, if it does."""
    if begun.code is Begin.EXPIRED:
        return DeadlineExceeded(f"The deadline of {item.key.short} passed before its computation began.")
    if begun.code is Begin.EXHAUSTED:
        return TooManyAttempts(
            f"The process that computed {item.key.short} died {begun.deaths} times, and it is not tried again. "
            f"The last time: {begun.last_death}",
            {"deaths": begun.deaths, "last": begun.last_death},
        )
    return None
