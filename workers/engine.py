"""The worker's side of the protocol: begin, compute, finish; then the message may be acked.

A crash at any line leaves the message unacked and each flight with a lease that lapses. What is published here (a copy
of a delivery that met a live holder, a message sent again) is published before the ack, never after.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foreseen.errors import ModelFailed, PredictionFailed, Revoked
from foreseen.flights import Call
from foreseen.holding import Alone, Begin, Begun, Finish
from foreseen.measures import QUEUED
from foreseen.message import Item, Message
from workers import audit, direct
from workers.batches import Batches
from workers.ensemble import Ensemble
from workers.outcomes import Outcomes
from workers.patience import insist
from workers.resend import Held, Resend, send_again
from workers.run import LATE, Delivery, Run, refusal_of
from workers.runtime import Runtime
from workers.succession import successor

__all__ = ["Engine", "NotServed", "Report"]


class NotServed(Exception):
    """This process does not have the model; its worker stops taking messages for it, and another may have it."""


@dataclass(slots=True)
class Report:
    """What became of a message's items, for Flower and the log."""

    computed: int = 0
    failed: int = 0
    settled: int = 0
    sent_again: int = 0
    waiting: int = 0


class Engine:
    """Handles messages in one process.

    Args:
        runtime: of the process.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._flights = runtime.flights
        self._outcomes = Outcomes(runtime)

    def handle(self, message: Message, holder: str, *, came_back: bool = False) -> Report:
        """Settle every item of a message; when it returns, the message may be acked.

        Args:
            message: as delivered.
            holder: nonce of this delivery's run; who renews its leases knows it too.
            came_back: it was delivered before, and not acked; only a message that asks for a reply needs to know.

        Raises:
            CacheUnavailable, BrokerUnavailable, UnsupportedLayout, NotServed: it must be delivered again.
        """
        report = Report()
        model_id = message.model_id
        if model_id not in self._runtime.models:
            gone = successor(self._runtime, model_id)
            if gone is None:
                raise NotServed(f"{model_id} is not served by this process")
        elif isinstance(failed := self._runtime.model(model_id), ModelFailed):
            raise NotServed(str(failed))
        else:
            gone = None
        delivery = Delivery(message, holder, gone)
        if message.is_audit and came_back:  # it may have cost a process: nobody waits for it
            return Report(settled=len(message.items))
        if message.reply_to and came_back:
            return Report(sent_again=send_again(self._runtime, [Resend(message, alone=list(message.items))]))
        # Where calls are shared nothing is computed alone but what must be: it would share with who comes next.
        may_share = len(message.items) > 1 or (self._runtime.shares_calls and not (message.reply_to and message.copies))
        with self._runtime.isolation.in_company():
            alone = self._settle(delivery, report, Alone.NO if may_share else Alone.IN_PROCESS)
            if alone is Alone.IN_PROCESS:
                alone = self._settle(delivery, report, alone)
        if alone is not None:
            with self._runtime.isolation.alone():
                self._settle(delivery, report, alone)
        return report

    def _settle(self, delivery: Delivery, report: Report, alone: Alone) -> Alone | None:
        """Settle every item; return how alone the only one is to be begun again, if it is."""
        resend = Resend(delivery.message)
        items: Sequence[Item] = delivery.message.items
        while items:
            runs: list[Run] = []
            for item, begun in zip(items, self._begin(delivery, items, alone), strict=True):
                match begun.code:
                    case Begin.SETTLED:
                        report.settled += 1
                    case Begin.HELD:
                        resend.held.append(Held(item, begun.token, begun.lease_left_ms / 1000))
                    case Begin.ALONE if len(delivery.message.items) == 1:
                        return Alone.IN_PROCESS
                    case Begin.ALONE:
                        resend.alone.append(item)
                    case Begin.ISOLATE:
                        return Alone.IN_WORKER
                    case _:
                        run = Run(delivery, item, begun, refusal_of(begun, item) or delivery.gone)
                        if begun.deadline_left_ms:
                            run.deadline_at = time.monotonic() + begun.deadline_left_ms / 1000
                        if self._runtime.spans is not None:
                            self._runtime.spans.begin(run)
                        runs.append(run)
            runs = self._suspended(runs, resend, report)
            self._run(delivery, runs, alone, report, resend)
            items = [run.item for run in runs if run.outcome is LATE]
        report.sent_again = send_again(self._runtime, [resend])
        return None

    def _suspended(self, runs: Sequence[Run], resend: Resend, report: Report) -> list[Run]:
        """Have others asked whom the model needs; return the runs that are to be computed or told now."""
        asking = [run for run in runs if run.outcome is None]
        if not asking or not self._needs_others(asking[0].delivery.message):
            return list(runs)
        waiting = self._runtime.waiting().ask(asking)
        report.waiting += len(waiting)
        lease_s = self._flights.lease_ms / 1000
        resend.held += [
            Held(run.item, run.begun.token, lease_s, run.delivery.holder) for run in waiting if not run.is_direct
        ]
        waits = {id(run) for run in waiting}
        return [run for run in runs if id(run) not in waits]

    def _needs_others(self, message: Message) -> bool:
        """Tell whether predictions are to be asked for before a message can be computed.

        For features that is tried once. A copy comes when they are kept; where they are not, they are computed here.
        """
        model = self._runtime.models.get(message.model_id)
        if model is None or issubclass(model, Ensemble):
            return model is not None
        is_apart = model.preprocess is not None and model.preprocess.apart
        return is_apart and not (message.copies or message.reply_to)

    def give_up(self, message: Message, holder: str, died: str) -> None:
        """Hand a message's flights back as if this process had `died` so: what does so alone ends in time."""
        if not message.reply_to:
            insist(self._runtime.cache, [self._flights.give_up(item.key, holder, died=died) for item in message.items])

    def revoke(self, message: Message, holder: str) -> None:
        """End a message's flights with `Revoked`, whether this holder runs them or nobody does yet.

        Called where nothing computes, in the worker's parent process; who waits is told, and no sweep sends it again.

        Raises:
            CacheUnavailable, BrokerUnavailable: nobody could be told.
        """
        delivery = Delivery(message, holder)
        if message.reply_to:
            self._outcomes.reply([Run(delivery, item, Begun(Begin.RUN), _revoked(item)) for item in message.items])
            return
        begun = self._runtime.cache.run(self._begin_calls(delivery, message.items, Alone.IN_WORKER))
        runs = [
            Run(delivery, item, each, _revoked(item))
            for item, each in zip(message.items, begun, strict=True)
            if each.code not in {Begin.SETTLED, Begin.HELD}
        ]
        self._runtime.cache.run([self._outcomes.finish_call(run) for run in runs])

    def _begin_calls(self, delivery: Delivery, items: Sequence[Item], alone: Alone) -> list[Call[Begun]]:
        message = delivery.message
        return [
            self._flights.begin(
                item.key,
                item.token,
                item.opened,
                item.deadline_ms,
                message.priority,
                delivery.holder,
                message.id,
                alone=alone,
                copies=message.copies,
                worker=self._runtime.home.channel,
            )
            for item in items
        ]

    def _begin(self, delivery: Delivery, items: Sequence[Item], alone: Alone) -> list[Begun]:
        message = delivery.message
        if message.is_audit:
            return audit.begin(self._runtime, items)
        if message.reply_to:
            return direct.begin(message, items, self._runtime.settings.max_attempts)
        calls: list[Call[Any]] = [*self._begin_calls(delivery, items, alone)]
        queue = self._flights.space.queue(message.model_id)
        calls.append(self._flights.raise_watermark(queue, message.priority, message.sent_ms))
        *begun, waited_ms = insist(self._runtime.cache, calls)
        if message.sent_ms:  # copies are sent out of the queue's turn
            self._runtime.measures.note(message.model_id, QUEUED, waited_ms / 1000)
        return begun

    def _run(self, delivery: Delivery, runs: Sequence[Run], alone: Alone, report: Report, resend: Resend) -> None:
        """Compute and tell. What failed for the moment is computed again after a pause, for which no other waits."""
        batches = Batches(self._runtime, self._outcomes, delivery.holder)
        while runs:
            batches.compute(runs, share=self._runtime.shares_calls and alone is Alone.NO)
            self._outcomes.sort(runs, resend)
            for run in runs:
                if run.finished is None or run.finished.code in {Finish.HELD, Finish.RESEND}:
                    continue
                if run.finished.code is Finish.SETTLED:
                    report.settled += 1
                elif isinstance(run.outcome, PredictionFailed):
                    report.failed += 1
                else:
                    report.computed += 1
            pauses_s = [run.pause_s for run in runs if run.pause_s is not None]
            if not pauses_s:
                return
            time.sleep(max(pauses_s))
            runs = [run for run in runs if run.pause_s is not None]
            for run in runs:
                run.outcome = None
                run.attempt += 1


def _revoked(item: Item) -> Revoked:
    return Revoked(f"The task of {item.key.short} was revoked.")
