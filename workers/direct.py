"""Messages that ask for a reply: computed without the cache, which does not answer whoever sent them.

Nothing is begun, kept or told in the cache; outcomes go to the producer's queue of replies, and then the message may be
acked. What else begin decides is decided from the message alone: a deadline by this worker's clock, and attempts by its
number among its copies, since each delivery that comes back is sent again as the next copy, its items one by one. So a
worker's stop counts as an attempt too: without the cache nobody can tell it from a death.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from foreseen.canonical import restore
from foreseen.entry import Entry, Kind, failure_body, payload_of, result_body
from foreseen.errors import (
    DeadlineExceeded,
    InputRefused,
    InvalidOutput,
    MalformedMessage,
    Misconfigured,
    PredictionFailed,
    Revoked,
    TooManyAttempts,
    VersionGone,
)
from foreseen.message import Item, Message
from foreseen.replies import Reply
from workers.compute import ANSWERED, Outcome, compute, over_limit
from workers.engine import Report
from workers.runtime import Runtime

__all__ = ["Direct"]


class Direct:
    """Handles messages that ask for a reply, in one process.

    Args:
        runtime: of the process.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._keyring = runtime.settings.keyring()

    def handle(self, message: Message, *, came_back: bool) -> Report:
        """Compute what a message asks for and send the replies; when it returns, the message may be acked.

        Args:
            message: as delivered.
            came_back: it was delivered before, and not settled.

        Raises:
            BrokerUnavailable: it must be delivered again.
        """
        if came_back:
            self._send_again(message, message.items)
            return Report(sent_again=len(message.items))
        with self._runtime.isolation.in_company():
            outcomes = self._compute(message)
        self._reply(message, outcomes)
        failed = sum(isinstance(outcome, PredictionFailed) for _, outcome in outcomes)
        return Report(computed=len(outcomes) - failed, failed=failed)

    def revoke(self, message: Message) -> None:
        """Answer a message with `Revoked`.

        Raises:
            BrokerUnavailable: nobody could be told.
        """
        self._reply(message, [(item, Revoked(f"The task of {item.key.short} was revoked.")) for item in message.items])

    def _compute(self, message: Message) -> list[tuple[Item, Outcome]]:
        outcomes: list[tuple[Item, Outcome]] = []
        fitting: list[Item] = []
        for item in message.items:
            refusal = self._refusal(message, item)
            if refusal is None:
                fitting.append(item)
            else:
                outcomes.append((item, refusal))
        if fitting:
            outcomes += self._computed(message, fitting)
        return outcomes

    def _refusal(self, message: Message, item: Item) -> PredictionFailed | None:
        """Return the failure that an item comes to without being computed, if it does."""
        if item.deadline_ms and item.deadline_ms <= time.time() * 1000:
            return DeadlineExceeded(f"The deadline of {item.key.short} passed before its computation began.")
        if message.copies > self._runtime.settings.max_attempts:
            return TooManyAttempts(
                f"{item.key.short} came back {message.copies} times without an outcome, and is not tried again.",
                {"deaths": message.copies, "last": "unknown, for lack of the cache"},
            )
        if message.model_id not in self._runtime.models:
            return VersionGone(f"{message.model_id} is not served here any more; ask for another version.")
        return None

    def _computed(self, message: Message, items: Sequence[Item]) -> list[tuple[Item, Outcome]]:
        model = self._runtime.model(message.model_id)
        if isinstance(model, PredictionFailed):
            return [(item, model) for item in items]
        outcomes: list[tuple[Item, Outcome]] = []
        inputs: list[tuple[Item, Any]] = []
        for item in items:
            try:
                inputs.append((item, restore(item.canonical.text, item.canonical.blobs)))
            except (MalformedMessage, Misconfigured) as error:
                outcomes.append((item, InputRefused(f"{item.key.short}: {error}")))
        size = model.batching.max_batch_size
        for start in range(0, len(inputs), size):
            batch = [item for item, _ in inputs[start : start + size]]
            values = [value for _, value in inputs[start : start + size]]
            outcomes += zip(batch, compute(model, values, _Observer(self, message, batch)), strict=True)
        return outcomes

    def answer_for(self, message: Message, items: Sequence[Item]) -> None:
        """Answer for a call that does not end, on another thread than its own."""
        if len(items) == 1:
            self._reply(message, [(items[0], over_limit(self._runtime.models[message.model_id]))])
        else:  # one of them: each is computed again, alone
            self._send_again(message, items)

    def _send_again(self, message: Message, items: Sequence[Item]) -> None:
        self._runtime.publisher.publish([message.again([item]) for item in items])

    def _reply(self, message: Message, outcomes: Sequence[tuple[Item, Outcome]]) -> None:
        replies = [
            Reply(message.reply_to, item.key, item.token, self._entry(item, outcome))
            for item, outcome in outcomes
            if outcome is not ANSWERED
        ]
        if replies:
            self._runtime.publisher.publish(replies)

    def _entry(self, item: Item, outcome: Outcome) -> Entry:
        """Return the entry that an outcome would be, of no generation."""
        kind, body = Kind.FAILURE, b""
        if not isinstance(outcome, PredictionFailed):
            try:
                kind, body = Kind.RESULT, result_body(outcome)
            except (TypeError, ValueError, OverflowError) as error:
                outcome = InvalidOutput(f"The output of {item.key.model_id} cannot travel: {error}")
        if kind is Kind.FAILURE:
            body = failure_body(outcome)
        if self._keyring:
            body = self._keyring.seal(item.key, kind, body)
        now_ms = round(time.time() * 1000)
        return Entry(kind, bytes(8), 0, now_ms, now_ms, 0, payload_of(body))


class _Observer(NamedTuple):
    """Who answers for a batch; nobody can say who wants it."""

    direct: Direct
    message: Message
    items: Sequence[Item]

    def wanted(self, places: Sequence[int]) -> list[bool]:
        return [True] * len(places)

    def stuck(self, places: Sequence[int]) -> None:
        self.direct.answer_for(self.message, [self.items[place] for place in places])
