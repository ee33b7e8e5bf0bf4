"""Publishing what was led, as steps without I/O: who fits, for how long to try, who hears what."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from foreseen.cards import Card
from foreseen.client.catalog import Catalog
from foreseen.client.effects import Pause, Send, Steps
from foreseen.client.marks import Marks
from foreseen.client.submission import Submission
from foreseen.errors import BrokerUnavailable, ForeseenError, InvalidInput, QueueFull
from foreseen.flights import Joined
from foreseen.message import Item
from foreseen.settings import Settings

__all__ = ["Led", "Publishing", "Refused"]

#: A submission whose message is to be sent, and what its join said.
Led: TypeAlias = tuple[Submission, Joined]
#: A submission whose message could not be sent, and why.
Refused: TypeAlias = tuple[Submission, ForeseenError]

#: Pauses while a broker refuses: the first, and the longest.
_FIRST_RETRY_S: Final = 0.05
_LAST_RETRY_S: Final = 1.0


class Publishing:
    """Sends messages for submissions.

    Args:
        settings: of the deployment.
        catalog: says what a model takes, and how much at a time.
        marks: take that mark; None where there are no flights.
        reply_to: queue that outcomes are to be sent to, instead of to flights.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        marks: Marks | None = None,
        reply_to: str = "",
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._marks = marks
        self._reply_to = reply_to

    def publish(self, leading: Sequence[Led]) -> Steps[list[Refused]]:
        """Send messages for submissions; return who could not be sent, and why."""
        groups: dict[tuple[str, bool], list[Led]] = {}
        for led in leading:
            groups.setdefault((led[0].key.model_id, led[0].bare), []).append(led)
        refused: list[Refused] = []
        for group in groups.values():
            refused += yield from self._publish_group(group)
        return refused

    def _publish_group(self, leading: Sequence[Led]) -> Steps[list[Refused]]:
        """Send messages for submissions of one model, all by its bare name or none; return who could not be sent."""
        refused: list[Refused] = []
        fitting: list[Led] = []
        first = leading[0][0]
        try:
            card = yield from self._catalog.card(first.key.model_id, bare=first.bare)
        except ForeseenError as error:
            return [(submission, error) for submission, _ in leading]
        for submission, joined in leading:
            misfit = self._misfit(card, submission)
            if misfit is None:
                fitting.append((submission, joined))
            else:
                refused.append((submission, misfit))
        if fitting:
            refused += yield from self._send_in_time(card, fitting)
        return refused

    def send_now(self, leading: Sequence[Led]) -> Steps[list[Led]]:
        """Send messages for submissions of one model that look again; return who could not be sent, and looks again."""
        try:
            # Without waiting for a card: this may run where pushes are heard, and they must not wait with it.
            card = yield from self._catalog.card(leading[0][0].key.model_id, wait_s=0)
            return (yield from self._send(card, leading))
        except ForeseenError:
            return list(leading)

    def _misfit(self, card: Card, submission: Submission) -> InvalidInput | None:
        assert submission.canonical is not None  # noqa: S101 - for the type checker: callers publish only what has one
        try:
            self._catalog.validate(card, submission.canonical)
        except InvalidInput as error:
            return error
        return None

    def _send_in_time(self, card: Card, leading: Sequence[Led]) -> Steps[list[Refused]]:
        """Send, and again for as long as the deployment buffers; return who could not be sent, and why."""
        patience = (each.patient_until for each, _ in leading if each.patient_until is not None)
        until = min(time.monotonic() + self._settings.buffer_s, min(patience, default=math.inf))
        pause_s = _FIRST_RETRY_S
        while True:
            error: ForeseenError
            try:
                leading = yield from self._send(card, leading)
                error = QueueFull(f"{card.max_queued} messages wait for {card.model_id}, as many as it allows.")
            except (BrokerUnavailable, QueueFull) as refusal:
                error = refusal
            leading = [each for each in leading if each[0].answer is None]  # else sent by another, meanwhile
            left_s = until - time.monotonic()
            if not leading or left_s <= 0:
                return [(submission, error) for submission, _ in leading]
            yield Pause(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LAST_RETRY_S)

    def _send(self, card: Card, leading: Sequence[Led]) -> Steps[list[Led]]:
        """Send messages; return for whom there was no room in the queue."""
        items = [
            (
                Item(
                    each.key,
                    joined.token,
                    joined.order,
                    joined.deadline_ms,
                    each.canonical,
                    each.expiry_ms,
                    each.context,
                ),
                joined.priority,
            )
            for each, joined in leading
            if each.canonical is not None
        ]

        def told(ids: Mapping[str, str]) -> None:
            for submission, joined in leading:
                submission.task_id = ids[joined.token]

        sent_ms = max(joined.now_ms for _, joined in leading)
        no_room = yield Send(card.model_id, items, sent_ms, card.max_batch_size, card.max_queued, told, self._reply_to)
        refused: list[Led] = []
        for submission, joined in leading:
            if joined.token in no_room:
                submission.task_id = None
                refused.append((submission, joined))
            elif self._marks is not None:
                self._marks.add(submission, joined.token)
        return refused
