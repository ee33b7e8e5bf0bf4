"""The worker's side of the protocol: begin, compute, finish; then the message may be acked.

A crash at any line leaves the message unacked and each flight with a lease that lapses. What is published here (a copy
of a delivery that met a live holder, a message sent again) is published before the ack, never after.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

from foreseen.canonical import restore
from foreseen.entry import failure_body, result_body
from foreseen.errors import (
    CacheUnavailable,
    DeadlineExceeded,
    InputRefused,
    InvalidOutput,
    MalformedMessage,
    Misconfigured,
    PredictionFailed,
    Revoked,
    TooManyAttempts,
    UnsupportedLayout,
    VersionGone,
)
from foreseen.flights import Begin, Begun, Call, Finish, Finished
from foreseen.message import Item, Message
from workers.compute import compute
from workers.model import CachePolicy
from workers.runtime import Runtime

__all__ = ["Engine", "Report"]

T = TypeVar("T")
log = logging.getLogger("foreseen.worker")

#: Pauses before a round trip that failed is tried again; after the last the message goes back to the broker.
_RETRY_S: Final = (0.1, 0.5, 2.0)
#: Failures that say nothing of the input: the next who asks is to be computed.
_NOT_KEPT: Final = (DeadlineExceeded, Revoked, VersionGone)


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
    outcome: Any = None  # a plain output or a PredictionFailed
    cost_us: int = 0


class _Held(NamedTuple):
    """An item whose flight, `token`, a live holder runs for `left_s` seconds yet, unless it renews."""

    item: Item
    token: str
    left_s: float


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

    def handle(self, message: Message, holder: str) -> Report:
        """Settle every item of a message; when it returns, the message may be acked.

        Args:
            message: as delivered.
            holder: nonce of this delivery's run; who renews its leases knows it too.

        Raises:
            CacheUnavailable, BrokerUnavailable, UnsupportedLayout: it must be delivered again.
        """
        report = Report()
        resend = _Resend()
        runs: list[_Run] = []
        for item, begun in zip(message.items, self._begin(message, holder), strict=True):
            match begun.code:
                case Begin.SETTLED:
                    report.settled += 1
                case Begin.HELD:
                    resend.held.append(_Held(item, begun.token, begun.lease_left_ms / 1000))
                case Begin.ALONE:
                    resend.alone.append(item)
                case _:
                    runs.append(_Run(item, begun, _refusal(begun.code, item)))
        if runs:
            self._compute(message.model_id, [run for run in runs if run.outcome is None])
            self._finish(message, holder, runs, report, resend)
        report.sent_again = self._send_again(message, resend)
        return report

    def give_up(self, message: Message, holder: str) -> None:
        """Hand a message's flights back as if this process had died: what does this alone is not tried for ever."""
        alone = len(message.items) == 1
        self._insist([self._flights.give_up(item.key, holder, died=True, alone=alone) for item in message.items])

    def revoke(self, message: Message, holder: str) -> None:
        """End a message's flights with `Revoked`, whether this holder runs them or nobody does yet.

        Called where nothing computes, in the worker's parent process; who waits is told, and no sweep sends it again.

        Raises:
            CacheUnavailable: the cache could not be told.
        """
        begun = self._runtime.cache.run(self._begin_calls(message, holder, alone=True))
        runs = [
            _Run(item, each, Revoked(f"The task of {item.key.short} was revoked."))
            for item, each in zip(message.items, begun, strict=True)
            if each.code not in {Begin.SETTLED, Begin.HELD}
        ]
        self._runtime.cache.run([self._finish_call(message, holder, run) for run in runs])

    def _begin_calls(self, message: Message, holder: str, *, alone: bool) -> list[Call[Begun]]:
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
            )
            for item in message.items
        ]

    def _begin(self, message: Message, holder: str) -> list[Begun]:
        calls: list[Call[Any]] = [*self._begin_calls(message, holder, alone=len(message.items) == 1)]
        queue = self._space.queue(message.model_id)
        calls.append(self._flights.raise_watermark(queue, message.priority, message.sent_ms))
        return self._insist(calls)[:-1]

    def _compute(self, model_id: str, runs: Sequence[_Run]) -> None:
        """Give each run its outcome, in batches of the model's size."""
        if not runs:
            return
        model: Any = VersionGone(f"{model_id} is not served here any more; ask for another version.")
        if model_id in self._runtime.models:
            model = self._runtime.model(model_id)
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
            outcomes = compute(model, inputs) if inputs else []
            cost_us = round((time.perf_counter() - began) * 1e6 / max(1, len(readable)))
            for run, outcome in zip(readable, outcomes, strict=True):
                run.outcome = outcome
                run.cost_us = min(cost_us, 2**32 - 1)

    def _finish(self, message: Message, holder: str, runs: Sequence[_Run], report: Report, resend: _Resend) -> None:
        calls = [self._finish_call(message, holder, run) for run in runs]
        replies: list[Finished] = self._insist(calls)
        for run, finished in zip(runs, replies, strict=True):
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
        return self._flights.finish(
            run.item.key, run.begun, holder, message.id,
            success=success, body=body, expiry_ms=round(expiry_s * 1000), cost_us=run.cost_us,
            copies=message.copies,
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

    def _insist(self, calls: Sequence[Call[T]]) -> list[T]:
        """Ask, and ask again a few times: every step may be sent twice, and a task that goes back costs far more."""
        for pause_s in _RETRY_S:
            try:
                return self._runtime.cache.run(calls)
            except (CacheUnavailable, UnsupportedLayout) as error:
                level = logging.WARNING if isinstance(error, UnsupportedLayout) else logging.DEBUG  # which is said once
                log.log(level, "trying again in %g s: %s", pause_s, error)
                time.sleep(pause_s)
        return self._runtime.cache.run(calls)


def _refusal(code: Begin, item: Item) -> PredictionFailed | None:
    """Return the failure with which begin wants an item finished, if it does."""
    if code is Begin.EXPIRED:
        return DeadlineExceeded(f"The deadline of {item.key.short} passed before its computation began.")
    if code is Begin.EXHAUSTED:
        return TooManyAttempts(f"The process that computed {item.key.short} died too often; it is not tried again.")
    return None


def _body(run: _Run) -> tuple[bool, bytes]:
    """Return whether the outcome is a success, and it as it travels."""
    if isinstance(run.outcome, PredictionFailed):
        return False, failure_body(run.outcome)
    try:
        return True, result_body(run.outcome)
    except (TypeError, ValueError, OverflowError) as error:
        run.outcome = InvalidOutput(f"The output of {run.item.key.model_id} cannot travel: {error}")
        return False, failure_body(run.outcome)
