"""Where ensembles wait for their members: in a thread of the process, and in no slot of its pool.

So do inputs of a model over a stage that is computed apart: for their features, and are sent again once these are kept.

The slot that takes an ensemble's message begins its flights and asks the members. What is answered at once is told at
once. The rest waits here: a copy of the message, due when the lease ends, is published, the message is acked, and the
slot is free. One thread of each process takes in what members answer, asks those whose turn it is, combines and tells;
whatever has come while it did so goes together in its next round trips. The leases are renewed meanwhile. If the
process dies they lapse, the copy comes due, and another begins again; by then most members are hits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from foreseen.client.submission import Answer, Submission
from foreseen.errors import (
    ForeseenError,
    InvalidInput,
    InvalidOutput,
    PredictionTimeout,
)
from foreseen.holding import Finish
from workers.ballot import SAME, Ask, Combined, Missed, Wait
from workers.compute import Unkept, failure_of, outcome_of
from workers.ensemble import Ensemble
from workers.leases import Holding
from workers.model import Model
from workers.outcomes import Outcomes
from workers.resend import Resend, send_again
from workers.run import LATE, UNPREPARED, Run
from workers.runtime import Runtime
from workers.vote import Vote, vote_on

__all__ = ["Waiting"]

log = logging.getLogger("foreseen.worker")

#: The outcomes of a batch are pushed one after the other, so that of the first ones the next members would be asked one
#: by one: what is heard is taken in once nothing has come for the first of these, or after the second.
_QUIET_S: Final = 0.001
_GATHER_S: Final = 0.01
#: Between two looks at whose time is up, while anything waits.
_TICK_S: Final = 0.25


class Waiting:
    """The ensembles of one process that wait.

    Args:
        runtime: of the process.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._outcomes = Outcomes(runtime)
        self._changed = threading.Condition()
        self._votes: dict[str, dict[Vote, None]] = {}  # by the holder of their delivery
        self._heard: deque[tuple[Vote, str, Submission]] = deque()
        self._ticked_at = 0.0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def ask(self, runs: Sequence[Run]) -> list[Run]:
        """Have the members of ensembles asked, or the stages of models over them, which are computed apart.

        What is answered at once is each run's outcome, or its features.

        Returns:
            The runs that wait here now: they are told when they have an outcome. Nobody else may touch them; whoever
            holds their delivery publishes a copy of it before he acks.

        Raises:
            CacheUnavailable: the members cannot be looked up.
        """
        votes = [vote_on(run, self._runtime.models[run.delivery.message.model_id]) for run in runs]
        try:
            self._advance(votes)
        except BaseException:
            for vote in votes:
                self._leave(vote, list(vote.open))
            raise
        waiting = [vote for vote in votes if not vote.is_over]
        if waiting:
            self._take_over(waiting)
        return [vote.run for vote in waiting]

    def close(self) -> None:
        """Hand back what waits, in messages that are due now; nothing is asked from here on."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(self._runtime.settings.reply_timeout_s)
            if self._thread.is_alive():
                return  # a server is away: what waits lapses
        votes = self._waiting()
        for vote in votes:
            vote.run.outcome = LATE  # for whoever begins it next
        self._end(votes)

    # --- one step of votes --------------------------------------------------------------------------------------------

    def _advance(self, votes: Iterable[Vote]) -> None:
        """Ask whom it is to be asked, for as long as answers come at once."""
        asking = [(vote, name) for vote in votes for name in self._step(vote)]
        while asking:
            answered = self._ask(asking)
            asking = [(vote, name) for vote in answered for name in self._step(vote)]

    def _ask(self, asking: Sequence[tuple[Vote, str]]) -> list[Vote]:
        """Ask members in one round trip; return the votes that have got an answer at once."""
        if not asking:
            return []
        client = self._runtime.client()
        submissions = [vote.submission(name) for vote, name in asking]
        for vote, name in asking:
            vote.asking(name)
        client.run(client.engine.submit_mixed(submissions))
        answered: dict[Vote, None] = {}
        for (vote, name), submission in zip(asking, submissions, strict=True):
            if submission.answer is None:
                vote.open[name] = submission
            elif vote.take_in(name, submission.answer):
                answered[vote] = None
        return list(answered)

    def _step(self, vote: Vote) -> tuple[str, ...]:
        """Return whom to ask next; where there is nobody left, the run has its outcome."""
        run = vote.run
        began = time.perf_counter()
        try:
            step = vote.ballot.step()
            match step:
                case Ask(members, about):
                    canonical = (
                        run.item.canonical if about is SAME else self._runtime.client().engine.inputs.canonical(about)
                    )
                    vote.about |= dict.fromkeys(members, canonical)
                    return members
                case Wait():
                    return ()
                case Combined() if issubclass(vote.model, Ensemble):
                    self._combined(vote, vote.model, step)
                case Combined(answer):
                    run.features = answer
                case Missed(missing):
                    run.outcome = LATE if vote.is_late else vote.failed(missing)
                    run.attempt = vote.model.retry.attempts
        except InvalidInput as error:
            run.outcome = InvalidOutput(f"What the members answered cannot be asked about: {error}")
        except Exception as error:  # noqa: BLE001 - a combiner can raise anything; it becomes the outcome
            run.outcome = failure_of(error)
        run.cost_us = min(round((time.perf_counter() - began) * 1e6), 2**32 - 1)
        return ()

    def _combined(self, vote: Vote, ensemble: type[Ensemble[Any, Any]], combined: Combined) -> None:
        run = vote.run
        if ensemble.model_id() not in self._runtime.models:  # a reload has let go of it
            run.outcome = LATE
            return
        model = self._runtime.model(ensemble.model_id())
        outcome = outcome_of(model, vote.output(combined)) if isinstance(model, Model) else model
        run.is_kept = not isinstance(outcome, Unkept)
        run.outcome = outcome.output if isinstance(outcome, Unkept) else outcome
        if combined.missing:
            run.kept_s = ensemble.partial_expiry_s

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _take_over(self, votes: Sequence[Vote]) -> None:
        with self._changed:
            for vote in votes:
                self._votes.setdefault(vote.run.delivery.holder, {})[vote] = None
                self._watch(vote)
            self._hold({vote.run.delivery.holder for vote in votes})
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="foreseen-waiting", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _watch(self, vote: Vote) -> None:
        """Hear of what is open: at once, if that has been answered meanwhile."""
        client = self._runtime.client()
        client.listen()
        for name, submission in vote.open.items():
            if submission is not None:
                client.engine.table.watch(submission, self._hearer(vote, name, submission))

    def _hearer(self, vote: Vote, name: str, submission: Submission) -> Callable[[Answer], None]:
        def hear(_: Answer) -> None:
            with self._changed:
                self._heard.append((vote, name, submission))
                self._changed.notify_all()

        return hear

    def _run(self) -> None:
        while not self._stopping:
            touched = self._next()
            try:
                self._turn(touched)
            except Exception:  # a defect here must not hold for ever what is never told
                log.exception("waiting for members failed; %d ensembles are begun again within a lease", len(touched))
                self._forget(touched)

    def _next(self) -> list[Vote]:
        """Wait for answers, and take them in; return whose next step may be due."""
        with self._changed:
            while not (self._heard or self._stopping or self._is_time()):
                self._changed.wait(_TICK_S if self._votes else None)
            until = time.monotonic() + _GATHER_S
            count = 0
            while count < len(self._heard) and time.monotonic() < until and not self._stopping:
                count = len(self._heard)
                self._changed.wait(_QUIET_S)
            heard = list(self._heard)
            self._heard.clear()
        touched: dict[Vote, None] = {}
        for vote, name, submission in heard:
            if vote.open.get(name) is submission and submission.answer is not None:
                touched[vote] = None
                vote.take_in(name, submission.answer)
        if self._is_time():
            self._ticked_at = time.monotonic()
            touched |= {vote: None for vote in self._waiting() if self._is_due(vote, self._ticked_at)}
        return list(touched)

    def _is_time(self) -> bool:
        return bool(self._votes) and time.monotonic() - self._ticked_at >= _TICK_S

    def _is_due(self, vote: Vote, now: float) -> bool:
        """Tell whether a member's time is up, which is noted, or one is to be asked again."""
        over = [name for name in vote.open if vote.until[name] <= now]
        self._leave(vote, over)
        for name in over:
            vote.ballot.failed(name, f"no answer within {vote.timeout_s:g} s")
        return bool(over or not vote.open or self._again(vote, now))

    def _again(self, vote: Vote, now: float) -> list[str]:
        return [name for name, each in vote.open.items() if each is None and vote.again_at[name] <= now]

    def _turn(self, touched: Sequence[Vote]) -> None:
        now = time.monotonic()
        self._try(lambda: self._advance(touched))
        again = [(vote, name) for vote in touched for name in self._again(vote, now)]
        self._try(lambda: self._advance(self._ask(again)))
        over = [vote for vote in touched if vote.is_over]
        for vote in over:
            if vote.run.features is not UNPREPARED:
                vote.run.outcome = LATE  # here: it is computed in a slot, by whoever begins it next
        self._end(over)
        for vote in touched:
            if not vote.is_over:
                self._watch(vote)

    def _try(self, take_step: Callable[[], None]) -> None:
        try:
            take_step()
        except ForeseenError as error:  # whom it could not ask is asked again
            log.info("members cannot be asked, trying again: %s", error)

    def _waiting(self) -> list[Vote]:
        with self._changed:
            return [vote for votes in self._votes.values() for vote in votes]

    def _leave(self, vote: Vote, names: Sequence[str]) -> None:
        """Stop wanting members' answers."""
        left = [submission for name in names if (submission := vote.open.pop(name)) is not None]
        if left:
            self._runtime.client().leave_soon(left, PredictionTimeout("the ensemble waits no longer"))

    def _end(self, votes: Sequence[Vote]) -> None:
        """Tell outcomes, or hand back what has none; nobody waits for these here any more."""
        if not votes:
            return
        for vote in votes:
            self._leave(vote, list(vote.open))
        by_model: dict[str, list[Run]] = {}
        for vote in votes:
            by_model.setdefault(vote.model.model_id(), []).append(vote.run)
        try:
            for runs in by_model.values():
                self._outcomes.tell(runs)
            resends: dict[str, Resend] = {}
            for run in (vote.run for vote in votes if _is_to_be_sent(vote.run)):
                message = run.delivery.message
                resends.setdefault(run.delivery.holder, Resend(message)).now.append(run.item)
            send_again(self._runtime, resends.values())
        except ForeseenError as error:
            log.warning("%d ensembles could not be told, they are begun again within a lease: %s", len(votes), error)
        self._forget(votes)

    def _forget(self, votes: Sequence[Vote]) -> None:
        with self._changed:
            for vote in votes:
                self._votes.get(vote.run.delivery.holder, {}).pop(vote, None)
            self._hold({vote.run.delivery.holder for vote in votes})

    def _hold(self, holders: set[str]) -> None:
        """Renew what of these deliveries waits here, and no more."""
        leases = self._runtime.own_leases()
        for holder in holders:
            votes = self._votes.get(holder, {})
            if not votes:
                self._votes.pop(holder, None)
                leases.remove(holder)
            elif keys := [vote.run.item.key for vote in votes if not vote.run.is_direct]:
                leases.add(Holding(holder, keys, waits=True))


def _is_to_be_sent(run: Run) -> bool:
    return run.outcome is LATE or (run.finished is not None and run.finished.code is Finish.RESEND)
