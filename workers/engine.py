"""The worker's side of the protocol: begin, compute, finish; then the message may be acked.

A crash at any line leaves the message unacked and each flight with a lease that lapses. What is published here (a copy
of a delivery that met a live holder, a message sent again) is published before the ack, never after.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, TypeVar

from foreseen import planted
from foreseen.cache import Command
from foreseen.canonical import restore
from foreseen.dead_letters import DeadLetter
from foreseen.entry import Kind, failure_body, result_body
from foreseen.errors import (
    BrokerUnavailable,
    CacheUnavailable,
    DeadlineExceeded,
    InputRefused,
    InvalidOutput,
    MalformedMessage,
    Misconfigured,
    PredictionFailed,
    QueueFull,
    Revoked,
    TimeLimitExceeded,
    TooManyAttempts,
    UnsupportedLayout,
    VersionGone,
)
from foreseen.flights import Alone, Begin, Begun, Call, Finish, Finished
from foreseen.message import Item, Message
from workers.compute import ANSWERED, compute, over_limit
from workers.model import Model
from workers.policies import CachePolicy, Retry
from workers.runtime import Runtime
from workers.wanted import Unwanted

__all__ = ["Engine", "Report"]

T = TypeVar("T")
log = logging.getLogger("foreseen.worker")

#: Pauses before a round trip that failed is tried again; after the last the message goes back to the broker.
_RETRY_S: Final = (0.1, 0.5, 2.0)
#: What was computed is kept for as long as it took to compute, at most this, for a cache that is away.
_MOST_PATIENCE_S: Final = 60.0
#: Failures that say nothing of the input: the next who asks is to be computed.
_NOT_KEPT: Final = (DeadlineExceeded, Revoked, VersionGone)
#: Beside an input's deaths: there is a letter.
_BURIED: Final = "buried"
#: Failures of inputs that an operator is to look at: they cost processes, or hold them up.
_DEAD: Final = (TooManyAttempts, TimeLimitExceeded)


@dataclass(slots=True)
class Report:
    """What became of a message's items, for Flower and the log."""

    computed: int = 0
    failed: int = 0
    settled: int = 0
    sent_again: int = 0


@dataclass(slots=True)
class _Run:
    """An item that this delivery is to finish."""

    item: Item
    begun: Begun
    outcome: Any = None  # see `workers.compute`
    cost_us: int = 0
    deadline_at: float = float("inf")  # monotonic seconds


class _Held(NamedTuple):
    """An item whose flight, `token`, a live holder runs for `left_s` seconds yet, unless it renews."""

    item: Item
    token: str
    left_s: float


class _Delivery(NamedTuple):
    """A message as it was delivered, and the nonce of this run of it."""

    engine: Engine
    message: Message
    holder: str


class _Observer(NamedTuple):
    """What a batch's computation can ask and tell."""

    delivery: _Delivery
    runs: Sequence[_Run]

    def wanted(self, places: Sequence[int]) -> list[bool]:
        return self.delivery.engine.wanted([self.runs[place] for place in places], self.delivery.holder)

    def stuck(self, places: Sequence[int]) -> None:
        self.delivery.engine.give_up_on(self.delivery, [self.runs[place] for place in places])


@dataclass(slots=True)
class _Resend:
    """Items that go into messages of their own."""

    now: list[Item] = field(default_factory=list[Item])
    alone: list[Item] = field(default_factory=list[Item])
    held: list[_Held] = field(default_factory=list["_Held"])


class Engine:
    """Handles messages in one process.

    Args:
        runtime: of the process.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._flights = runtime.flights
        self._space = runtime.flights.space
        self._keyring = runtime.settings.keyring()

    def handle(self, message: Message, holder: str) -> Report:
        """Settle every item of a message; when it returns, the message may be acked.

        Args:
            message: as delivered.
            holder: nonce of this delivery's run; who renews its leases knows it too.

        Raises:
            CacheUnavailable, BrokerUnavailable, UnsupportedLayout: it must be delivered again.
        """
        report = Report()
        with self._runtime.isolation.in_company():
            isolate = self._settle(message, holder, report, Alone.IN_PROCESS if len(message.items) == 1 else Alone.NO)
        if isolate:
            with self._runtime.isolation.alone():
                self._settle(message, holder, report, Alone.IN_WORKER)
        return report

    def _settle(self, message: Message, holder: str, report: Report, alone: Alone) -> bool:
        """Settle every item; True if the only one is to be begun again, with nothing beside it in the worker."""
        resend = _Resend()
        runs: list[_Run] = []
        for item, begun in zip(message.items, self._begin(message, holder, alone), strict=True):
            match begun.code:
                case Begin.SETTLED:
                    report.settled += 1
                case Begin.HELD:
                    resend.held.append(_Held(item, begun.token, begun.lease_left_ms / 1000))
                case Begin.ALONE:
                    resend.alone.append(item)
                case Begin.ISOLATE:
                    return True
                case _:
                    run = _Run(item, begun, _refusal(begun, item))
                    if begun.deadline_left_ms:
                        run.deadline_at = time.monotonic() + begun.deadline_left_ms / 1000
                    runs.append(run)
        if runs:
            self._run(_Delivery(self, message, holder), runs, report, resend)
        report.sent_again = self._send_again(message, resend)
        return False

    def give_up(self, message: Message, holder: str, died: str) -> None:
        """Hand a message's flights back as if this process had `died` so: what does so alone ends in time."""
        self._insist([self._flights.give_up(item.key, holder, died=died) for item in message.items])

    def revoke(self, message: Message, holder: str) -> None:
        """End a message's flights with `Revoked`, whether this holder runs them or nobody does yet.

        Called where nothing computes, in the worker's parent process; who waits is told, and no sweep sends it again.

        Raises:
            CacheUnavailable: the cache could not be told.
        """
        begun = self._runtime.cache.run(self._begin_calls(message, holder, Alone.IN_WORKER))
        runs = [
            _Run(item, each, Revoked(f"The task of {item.key.short} was revoked."))
            for item, each in zip(message.items, begun, strict=True)
            if each.code not in {Begin.SETTLED, Begin.HELD}
        ]
        self._runtime.cache.run([self._finish_call(message, holder, run) for run in runs])

    def _begin_calls(self, message: Message, holder: str, alone: Alone) -> list[Call[Begun]]:
        return [
            self._flights.begin(
                item.key,
                item.token,
                item.opened,
                item.deadline_ms,
                message.priority,
                holder,
                message.id,
                alone=alone,
                copies=message.copies,
                worker=self._runtime.channel,
            )
            for item in message.items
        ]

    def _begin(self, message: Message, holder: str, alone: Alone) -> list[Begun]:
        calls: list[Call[Any]] = [*self._begin_calls(message, holder, alone)]
        queue = self._space.queue(message.model_id)
        calls.append(self._flights.raise_watermark(queue, message.priority, message.sent_ms))
        return self._insist(calls)[:-1]

    def _run(self, delivery: _Delivery, runs: Sequence[_Run], report: Report, resend: _Resend) -> None:
        """Compute and finish. What failed for the moment is computed again after a pause, for which no other waits."""
        model_id = delivery.message.model_id
        model: Any = VersionGone(f"{model_id} is not served here any more; ask for another version.")
        if model_id in self._runtime.models:
            model = self._runtime.model(model_id)
        retry = model.retry if isinstance(model, Model) else Retry(attempts=1)
        for attempt in itertools.count(1):
            self._compute(model, [run for run in runs if run.outcome is None], delivery)
            again = {id(run): pause_s for run in runs if (pause_s := _pause_s(retry, run, attempt)) is not None}
            self._finish(delivery, [run for run in runs if id(run) not in again], report, resend)
            if not again:
                return
            time.sleep(max(again.values()))
            runs = [run for run in runs if id(run) in again]
            for run in runs:
                run.outcome = None

    def _compute(self, model: Any, runs: Sequence[_Run], delivery: _Delivery) -> None:
        """Give each run its outcome, in batches of the model's size."""
        if isinstance(model, PredictionFailed):
            for run in runs:
                run.outcome = model
            return
        size = model.batching.max_batch_size
        for start in range(0, len(runs), size):
            batch = runs[start : start + size]
            inputs: list[Any] = []
            readable: list[_Run] = []
            for run in batch:
                try:
                    inputs.append(restore(run.item.canonical.text, run.item.canonical.blobs))
                    readable.append(run)
                except (MalformedMessage, Misconfigured) as error:
                    run.outcome = InputRefused(f"{run.item.key.short}: {error}")
            began = time.perf_counter()
            outcomes = compute(model, inputs, _Observer(delivery, readable)) if inputs else []
            cost_us = round((time.perf_counter() - began) * 1e6 / max(1, len(readable)))
            for run, outcome in zip(readable, outcomes, strict=True):
                run.outcome = outcome
                run.cost_us = min(cost_us, 2**32 - 1)

    def wanted(self, runs: Sequence[_Run], holder: str) -> list[bool]:
        """Tell for each whether anybody wants it still; all are, while the cache cannot say."""
        try:
            return self._runtime.cache.run([self._flights.wanted(run.item.key, holder) for run in runs])
        except (CacheUnavailable, UnsupportedLayout):
            return [True] * len(runs)

    def give_up_on(self, delivery: _Delivery, runs: Sequence[_Run]) -> None:
        """Answer for a call that does not end, on another thread than its own; its thread is lost."""
        model = self._runtime.models[delivery.message.model_id]
        log.error(
            "%s goes on beyond its limit and cannot be ended in a thread, which is lost until the worker is restarted",
            delivery.message.model_id,
        )
        resend = _Resend()
        if len(runs) == 1:
            self._finish(delivery, [replace(runs[0], outcome=over_limit(model))], Report(), resend)
        else:  # one of them: each is computed again, alone
            died = f"took longer than {model.limits.compute_s:g} s"
            self._insist([self._flights.give_up(run.item.key, delivery.holder, died=died) for run in runs])
            resend.alone.extend(run.item for run in runs)
        self._send_again(delivery.message, resend)

    def _finish(self, delivery: _Delivery, runs: Sequence[_Run], report: Report, resend: _Resend) -> None:
        unwanted = [run for run in runs if isinstance(run.outcome, Unwanted)]
        if unwanted:  # handed back, and sent again: whether somebody has come meanwhile, that begin will know
            self._insist([self._flights.give_up(run.item.key, delivery.holder, died=None) for run in unwanted])
            resend.now.extend(run.item for run in unwanted)
            runs = [run for run in runs if not isinstance(run.outcome, Unwanted)]
        runs = [run for run in runs if run.outcome is not ANSWERED]
        self._bury([run for run in runs if isinstance(run.outcome, _DEAD)])
        calls = [self._finish_call(delivery.message, delivery.holder, run) for run in runs]
        worth_s = min(_MOST_PATIENCE_S, sum(run.cost_us for run in runs) / 1e6)
        for run, finished in zip(runs, self._insist(calls, worth_s) if calls else (), strict=True):
            match finished.code:
                case Finish.KEPT | Finish.TOLD:
                    if isinstance(run.outcome, PredictionFailed):
                        report.failed += 1
                    else:
                        report.computed += 1
                case Finish.SETTLED:
                    report.settled += 1
                case Finish.HELD:
                    resend.held.append(_Held(run.item, finished.token, finished.lease_left_ms / 1000))
                case Finish.RESEND:
                    resend.now.append(run.item)

    def _bury(self, runs: Sequence[_Run]) -> None:
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

    def _finish_call(self, message: Message, holder: str, run: _Run) -> Call[Finished]:
        model = self._runtime.models.get(message.model_id)
        policy = model.cache if model is not None else CachePolicy()
        success, body = _body(run)
        if success:
            expiry_s = policy.expiry_s * (1 - policy.jitter * random.random())
        elif isinstance(run.outcome, _NOT_KEPT) or getattr(run.outcome, "details", {}).get("stage") == "load":
            expiry_s = 0.0
        else:
            expiry_s = policy.failure_expiry_s
        if self._keyring:
            body = self._keyring.seal(run.item.key, Kind.RESULT if success else Kind.FAILURE, body)
        if len(body) > self._runtime.settings.max_entry_bytes:
            expiry_s = 0.0
        return self._flights.finish(
            run.item.key, run.begun, holder, message.id,
            success=success, body=body, expiry_ms=round(expiry_s * 1000), cost_us=run.cost_us,
            copies=message.copies,
            stale_ms=round(policy.stale_s * 1000) if success else 0,
            early_ms=min(math.ceil(policy.early_refresh * run.cost_us / 1000), 2**32 - 1) if success else 0,
        )  # fmt: skip

    def _send_again(self, message: Message, resend: _Resend) -> int:
        """Publish what stands in for items of this delivery, and only then note the copies."""
        messages = [message.again([item]) for item in resend.alone]
        if resend.now:
            messages.append(message.again(resend.now))
        copies: list[Call[bool]] = []
        if resend.held:
            due_s = max(held.left_s for held in resend.held)
            copy = message.again([held.item for held in resend.held], due_s=due_s)
            messages.append(copy)
            copies = [
                self._flights.copied(held.item.key, held.token, copy.id, copy.copies, held.item.token)
                for held in resend.held
            ]
        if messages:
            self._runtime.publisher.publish(messages)
        if copies:
            self._insist(copies)
        return len(messages)

    def _insist(self, calls: Sequence[Call[T]], patience_s: float = 0.0) -> list[T]:
        """Ask, and ask again a few times: every step may be sent twice, and a task that goes back costs far more.

        `patience_s` is what it is worth beyond that: as long as it took to compute what would be thrown away.
        """
        pauses, until = [*_RETRY_S], time.monotonic() + patience_s
        while True:
            try:
                return self._runtime.cache.run(calls)
            except (CacheUnavailable, UnsupportedLayout) as error:
                if not pauses and time.monotonic() >= until:
                    raise
                pause_s = pauses.pop(0) if pauses else _RETRY_S[-1]
                level = logging.WARNING if isinstance(error, UnsupportedLayout) else logging.DEBUG  # which is said once
                log.log(level, "trying again in %g s: %s", pause_s, error)
                if isinstance(error, CacheUnavailable) and planted.is_blamed(error):
                    self._unplant(calls)
                time.sleep(pause_s)

    def _unplant(self, calls: Sequence[Call[Any]]) -> None:
        names = planted.touched(calls)
        with suppress(CacheUnavailable):  # the step is tried again anyway
            self._runtime.cache.commands(planted.removals(names, self._runtime.cache.commands(planted.look(names))))


def _refusal(begun: Begun, item: Item) -> PredictionFailed | None:
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


def _pause_s(retry: Retry, run: _Run, attempt: int) -> float | None:
    """Return how long to wait before it is computed again; None if it is not, or not before its deadline."""
    if not isinstance(run.outcome, PredictionFailed) or run.begun.code is not Begin.RUN:
        return None
    pause_s = retry.pause_s(run.outcome, attempt)
    return None if pause_s is None or time.monotonic() + pause_s >= run.deadline_at else pause_s


def _body(run: _Run) -> tuple[bool, bytes]:
    """Return whether the outcome is a success, and it as it travels."""
    if isinstance(run.outcome, PredictionFailed):
        return False, failure_body(run.outcome)
    try:
        return True, result_body(run.outcome)
    except (TypeError, ValueError, OverflowError) as error:
        run.outcome = InvalidOutput(f"The output of {run.item.key.model_id} cannot travel: {error}")
        return False, failure_body(run.outcome)
