"""What outcomes come to: told to everyone who joined, handed back, computed again, buried.

The outcomes of a batch are told in one round trip, whichever messages its items came in.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Final

from foreseen.compression import deflate
from foreseen.dead_letters import DeadLetter
from foreseen.entry import CODEC, COMPRESSED_CODEC, Kind, encode_body, failure_body, payload_of, result_body
from foreseen.errors import (
    BrokerUnavailable,
    CacheUnavailable,
    DeadlineExceeded,
    InvalidOutput,
    PredictionFailed,
    QueueFull,
    Revoked,
    VersionGone,
)
from foreseen.flights import Call
from foreseen.holding import Begin, Finish, Finished
from foreseen.parcels import Command
from workers import audit, direct
from workers.compute import ANSWERED, over_limit
from workers.patience import insist
from workers.policies import CachePolicy, Retry
from workers.prediction_log import log_prediction
from workers.resend import Held, Resend, send_again
from workers.run import LATE, Run
from workers.runtime import Runtime
from workers.succession import pass_on
from workers.wanted import Unwanted

__all__ = ["Outcomes"]

log = logging.getLogger("foreseen.worker")

#: What was computed is kept for as long as it took to compute, at most this, for a cache that is away.
_MOST_PATIENCE_S: Final = 60.0
#: Failures that say nothing of the input: the next who asks is to be computed.
_NOT_KEPT: Final = (DeadlineExceeded, Revoked, VersionGone)
#: Beside an input's deaths: there is a letter.
_BURIED: Final = "buried"


class Outcomes:
    """Deals with the outcomes of runs, of any deliveries of one model at a time.

    Args:
        runtime: of the process.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._flights = runtime.flights
        self._space = runtime.flights.space
        self._keyring = runtime.settings.keyring() or None

    def tell(self, runs: Sequence[Run]) -> None:
        """Tell outcomes, and note of each run what became of it, or that it is to be computed again.

        Raises:
            CacheUnavailable, UnsupportedLayout: they could not be told.
            BrokerUnavailable: those could not who asked for a reply.
        """
        for run in runs:
            run.pause_s = self._pause_s(run)
        # Whoever has come meanwhile may want it, or at a later time: the next begin will know.
        self._hand_back([run for run in runs if run.outcome is LATE or isinstance(run.outcome, Unwanted)], died=None)
        told = [run for run in runs if run.pause_s is None and _can_be_told(run)]
        spans = self._runtime.spans
        if spans is not None:
            spans.end(run for run in runs if run.outcome is LATE or isinstance(run.outcome, Unwanted))
        with spans.telling(told) if spans is not None else nullcontext():
            self._tell(told)
        for run in told:
            log_prediction(run)

    def _tell(self, told: Sequence[Run]) -> None:
        letters = [run for run in told if isinstance(run.outcome, PredictionFailed) and run.outcome.poison]
        self._bury([run for run in letters if not run.is_audit])
        self.reply([run for run in told if run.is_direct])
        told = [run for run in told if not run.is_direct]
        calls = [self.finish_call(run) for run in told]
        worth_s = min(_MOST_PATIENCE_S, sum(run.cost_us for run in told) / 1e6)
        for run, finished in zip(told, insist(self._runtime.cache, calls, worth_s) if calls else (), strict=True):
            run.finished = finished
        self._pass_on([run for run in told if run.finished is not None and run.finished.code is Finish.BARE])

    def reply(self, runs: Sequence[Run]) -> None:
        """Tell outcomes to those who asked for a reply; an audit's are compared instead."""
        replies = [run for run in runs if not run.is_audit]
        if replies:
            direct.reply(
                self._runtime.publisher, [(run.delivery.message, run.item, *self._sealed(run)[:2]) for run in replies]
            )
        if len(replies) < len(runs):
            audit.compare(self._runtime, [run for run in runs if run.is_audit])
        for run in runs:
            run.finished = Finished(Finish.TOLD)

    def sort(self, runs: Sequence[Run], resend: Resend) -> None:
        """Put what a message's runs leave to be sent again where it belongs."""
        for run in runs:
            if isinstance(run.outcome, Unwanted):
                resend.now.append(run.item)
            elif run.finished is not None and run.finished.code is Finish.HELD:
                resend.held.append(Held(run.item, run.finished.token, run.finished.lease_left_ms / 1000))
            elif run.finished is not None and run.finished.code is Finish.RESEND:
                resend.now.append(run.item)

    def give_up_on(self, stuck: Sequence[Run], others: Sequence[Run]) -> None:
        """Answer for a call that does not end, on another thread than its own; its thread is lost.

        Args:
            stuck: what it is for.
            others: of its batch; whatever their outcomes are to be, nobody would tell them.
        """
        model_id = stuck[0].delivery.message.model_id
        model = self._runtime.models[model_id]
        log.error(
            "%s goes on beyond its limit and cannot be ended in a thread, which is lost until the worker is restarted",
            model_id,
        )
        resends = {run.delivery.holder: Resend(run.delivery.message) for run in (*stuck, *others)}
        if len(stuck) == 1:
            answered = replace(stuck[0], outcome=over_limit(model))  # a copy: its own is not in yet
            self.tell([answered])
            self.sort([answered], resends[answered.delivery.holder])
        else:  # one of them: each is computed again, alone
            self._hand_back(stuck, died=f"took longer than {model.limits.compute_s:g} s")
            for run in stuck:
                resends[run.delivery.holder].alone.append(run.item)
        self._hand_back(others, died=None)
        for run in others:
            resends[run.delivery.holder].now.append(run.item)
        send_again(self._runtime, resends.values())

    def finish_call(self, run: Run, *, named: bool = True) -> Call[Finished]:
        """Return the call that tells an outcome; one of a version that is gone, to those who `named` it alone."""
        message = run.delivery.message
        model = self._runtime.models.get(message.model_id)
        policy = model.cache if model is not None else CachePolicy()
        kind, body, codec = self._sealed(run, policy.compress_above_bytes)
        success = kind is Kind.RESULT
        asked_s = min(run.kept_s, math.inf if run.item.expiry_ms is None else run.item.expiry_ms / 1000)
        if success:
            expiry_s = min(policy.expiry_s, asked_s) * (1 - policy.jitter * random.random()) if run.is_kept else 0.0
        else:
            retry = model.retry if model is not None else Retry()
            expiry_s = min(_failure_expiry_s(run.outcome, policy, retry), asked_s)
        if len(body) > self._runtime.settings.max_entry_bytes:
            expiry_s = 0.0
        return self._flights.finish(
            run.item.key, run.begun, run.delivery.holder, message.id,
            success=success, body=body, expiry_ms=round(expiry_s * 1000), cost_us=run.cost_us,
            copies=message.copies,
            stale_ms=round(min(policy.stale_s, asked_s - expiry_s) * 1000) if success else 0,
            early_ms=min(math.ceil(policy.early_refresh * run.cost_us / 1000), 2**32 - 1) if success else 0,
            codec=codec, trace=self._runtime.spans.traceparent(run) if self._runtime.spans is not None else "",
            named=named and isinstance(run.outcome, VersionGone),
        )  # fmt: skip

    def _pass_on(self, runs: Sequence[Run]) -> None:
        """Have the current version compute what was asked by the bare name, then tell that this one is gone.

        In this order: whoever is to be told the second may not be there any more.
        """
        by_version: dict[str, list[Run]] = {}
        for run in runs:
            by_version.setdefault(run.outcome.details["current"], []).append(run)
        for group in by_version.values():
            pass_on(self._runtime, group, group[0].outcome)
        calls = [self.finish_call(run, named=False) for run in runs]
        for run, finished in zip(runs, insist(self._runtime.cache, calls) if calls else (), strict=True):
            run.finished = finished

    def _sealed(self, run: Run, compress_above_bytes: int | None = None) -> tuple[Kind, bytes, int]:
        """Return what an outcome is, its body, which is signed where there are keys, and the body's codec."""
        kind, body = _body(run)
        codec = CODEC
        # Nothing larger is kept, nor read by who has not joined.
        most = self._runtime.settings.max_entry_bytes
        if kind is Kind.RESULT and compress_above_bytes is not None and compress_above_bytes < len(body) <= most:
            compressed = deflate(payload_of(body))
            if compressed is not None:
                body, codec = encode_body(compressed), COMPRESSED_CODEC
        return kind, self._keyring.seal(run.item.key, kind, body) if self._keyring else body, codec

    def _pause_s(self, run: Run) -> float | None:
        """Return how long to wait before it is computed again; None if it is not, or not before its deadline."""
        model = self._runtime.models.get(run.delivery.message.model_id)
        if model is None or not isinstance(run.outcome, PredictionFailed) or run.begun.code is not Begin.RUN:
            return None
        if run.is_audit:  # nobody waits for it
            return None
        pause_s = model.retry.pause_s(run.outcome, run.attempt)
        return None if pause_s is None or time.monotonic() + pause_s >= run.deadline_at else pause_s

    def _hand_back(self, runs: Sequence[Run], *, died: str | None) -> None:
        calls = [
            self._flights.give_up(run.item.key, run.delivery.holder, died=died) for run in runs if not run.is_direct
        ]
        if calls:
            insist(self._runtime.cache, calls)

    def _bury(self, runs: Sequence[Run]) -> None:
        """Publish dead letters: before the failure is told, or a kill between the two would leave none.

        One for each input, however often it is asked for again while its deaths are remembered.
        """
        if not runs:
            return
        settings, cache = self._runtime.settings, self._runtime.cache
        names = [self._space.deaths(run.item.key) for run in runs]
        with suppress(CacheUnavailable):
            known = cache.commands([("HGET", name, _BURIED) for name in names])
            runs = [run for run, is_buried in zip(runs, known, strict=True) if not is_buried]
        letters = [
            DeadLetter(
                run.item.key, run.outcome, round(time.time() * 1000),
                run.item.canonical if settings.dead_letter_inputs else None,
            )
            for run in runs
        ]  # fmt: skip
        if not letters:
            return
        lost, why = letters, "FORESEEN_MAX_DEAD_LETTERS are kept: foreseen dead list"
        try:
            lost = self._runtime.publisher.publish(letters, {self._space.dead_letters(): settings.max_dead_letters})
        except (BrokerUnavailable, QueueFull) as error:  # who waits is told all the same
            why = str(error)
        for letter in lost:
            log.error("no dead letter for %s (%s): %s", letter.key, why, letter.failure)
        marks: list[Command] = []
        for name in (self._space.deaths(letter.key) for letter in letters if letter not in lost):
            marks += [("HSET", name, _BURIED, 1), ("PEXPIRE", name, self._flights.mark_ms)]
        if marks:
            with suppress(CacheUnavailable):  # another letter then, at worst
                cache.commands(marks)


def _can_be_told(run: Run) -> bool:
    return run.outcome is not ANSWERED and run.outcome is not LATE and not isinstance(run.outcome, Unwanted)


def _failure_expiry_s(failure: PredictionFailed, policy: CachePolicy, retry: Retry) -> float:
    """Return how long a failure is kept."""
    if isinstance(failure, _NOT_KEPT):
        return 0.0
    if failure.poison:
        return policy.failures.poison_s
    return policy.failures.transient_s if retry.passes(failure) else policy.failures.permanent_s


def _body(run: Run) -> tuple[Kind, bytes]:
    """Return what the outcome is, and it as it travels."""
    if isinstance(run.outcome, PredictionFailed):
        return Kind.FAILURE, failure_body(run.outcome)
    try:
        return Kind.RESULT, result_body(run.outcome)
    except (TypeError, ValueError, OverflowError) as error:
        run.outcome = InvalidOutput(f"The output of {run.item.key.model_id} cannot travel: {error}")
        return Kind.FAILURE, failure_body(run.outcome)
