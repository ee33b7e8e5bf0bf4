"""A vote: one input that waits for others' answers, and what they have said so far; without I/O."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from foreseen.canonical import CanonicalInput
from foreseen.client.submission import Answer, Submission
from foreseen.errors import DeadlineExceeded, ForeseenError, PredictionFailed, TooFewMembers, TransientFailure
from foreseen.flights import Kind
from foreseen.keys import key_of
from foreseen.outcome import Failure, Result
from workers.ballot import Ballot, Combined
from workers.combine import Combiner
from workers.ensemble import Ensemble, Pinned
from workers.model import Model
from workers.run import UNPREPARED, Run

__all__ = ["Vote", "vote_on"]

#: Before a member is asked again that could not be asked: its queue is full, nobody serves it, a server is away.
AGAIN_S: Final = 1.0


class _Only(Combiner):
    """Of one member."""

    version = "1"

    def combine(self, answers: Mapping[str, Any]) -> Any:
        return next(iter(answers.values()))


@dataclass(slots=True, eq=False)
class Vote:
    """One input that waits for others' answers, its ballot, and what is asked for it.

    Attributes:
        run: of the ensemble, or of a model over a stage; it has an outcome, or features, once the vote is over.
        model: that one.
        ballot: what is known of its members; of its stage.
        pinned: what these are.
        timeout_s: how long each may take.
        about: what each member is asked about.
        open: the submissions that are to be answered, by member; None is to be asked again.
        until: how long each member may take (monotonic seconds).
        again_at: when those are asked again that could not be asked (likewise).
        is_late: a member was not begun before the deadline.
        failure: of the member that failed last.
    """

    run: Run
    model: type[Model[Any, Any]]
    ballot: Ballot
    pinned: Mapping[str, Pinned]
    timeout_s: float
    about: dict[str, CanonicalInput] = field(default_factory=dict[str, CanonicalInput])
    open: dict[str, Submission | None] = field(default_factory=dict[str, "Submission | None"])
    until: dict[str, float] = field(default_factory=dict[str, float])
    again_at: dict[str, float] = field(default_factory=dict[str, float])
    is_late: bool = False
    failure: PredictionFailed | None = None

    @property
    def is_over(self) -> bool:
        """Whether nobody need be asked any more."""
        return self.run.outcome is not None or self.run.features is not UNPREPARED

    def submission(self, name: str) -> Submission:
        """Return the submission that asks a member."""
        run, pinned, canonical = self.run, self.pinned[name], self.about[name]
        deadline_s = run.deadline_at - time.monotonic()
        submission = Submission(
            key_of(pinned.model, pinned.version, canonical), canonical, Kind.WAITER,
            priority=run.priority, deadline_s=None if deadline_s == float("inf") else deadline_s,
        )  # fmt: skip
        submission.context = run.item.context  # it goes on in the trace of whoever has asked
        return submission

    def asking(self, name: str) -> None:
        """Note that a member is being asked."""
        now = time.monotonic()
        self.open[name] = None
        self.until.setdefault(name, now + self.timeout_s)
        self.again_at[name] = now + AGAIN_S

    def take_in(self, name: str, answer: Answer) -> bool:
        """Note a member's answer; False if it is to be asked again."""
        match answer:
            case Result({"answer": within, "missing": dict(missing)}) if self.pinned[name].is_ensemble:
                self.ballot.answered(name, within, missing)
            case Result(value):
                self.ballot.answered(name, value)
            case Failure(error):
                self.is_late |= isinstance(error, DeadlineExceeded)
                self.failure = error
                self.ballot.failed(name, _why(error))
            case _ if answer.retryable and time.monotonic() + AGAIN_S < self.until[name]:
                self.open[name] = None
                return False
            case _:
                self.ballot.failed(name, _why(answer))
        self.open.pop(name, None)
        return True

    def output(self, combined: Combined) -> dict[str, Any]:
        """Return what an ensemble answers."""
        return {
            "answer": combined.answer,
            "members": [self.pinned[name].model_id for name in combined.members],
            "missing": self._by_id(combined.missing),
        }

    def failed(self, missing: Mapping[str, str]) -> PredictionFailed:
        """Return what it fails with for want of answers; a model over a stage fails as that did."""
        why = self._by_id(missing)
        told = "; ".join(f"{model_id}: {reason}" for model_id, reason in why.items())
        if not issubclass(self.model, Ensemble):
            return self.failure or TransientFailure(told)
        had = f"{len(self.ballot.answers)} answers of {self.ballot.quorum} that it needs"
        return TooFewMembers(f"{self.model.model_id()} has {had}: {told}", {"missing": why})

    def _by_id(self, missing: Mapping[str, str]) -> dict[str, str]:
        """Return what is missing by `name@version`; what is missing from a member's own answer follows a slash."""
        told: dict[str, str] = {}
        for name, why in missing.items():
            member, slash, within = name.partition("/")
            told[self.pinned[member].model_id + slash + within] = why
        return told


def vote_on(run: Run, model: type[Model[Any, Any]]) -> Vote:
    """Return a vote on an input of an ensemble, or of a model over a stage."""
    if issubclass(model, Ensemble):
        run.attempt = model.retry.attempts  # what failed is not computed again here: its members were
        return Vote(run, model, model.ballot(), model.pinned, model.member_timeout_s)
    stage: Any = model.preprocess
    pinned = {stage.name: Pinned(stage.name, stage.version)}
    return Vote(run, model, Ballot((stage.name,), _Only(), 1), pinned, stage.timeout_s)


def _why(error: ForeseenError) -> str:
    message = error.message if isinstance(error, PredictionFailed) else str(error)
    return f"{type(error).__name__}: {message}"
