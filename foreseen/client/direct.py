"""Direct submissions: computed without the cache while that does not answer, as steps without I/O.

Their messages name the producer's queue of replies, and each item a token of the submission's own; a reply is a push
that comes by the broker. Nothing is looked up, kept or coalesced but within this process. Deadlines are by the
producer's clock, since the cache server's cannot be asked; a waiter's patience is one, since nobody can be told that he
has left. All go before what waits for the cache, which may hold up a worker for a while. Once the cache is back, a look
joins or opens a flight as ever: so a reply that is lost costs its waiter time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from foreseen.client.catalog import Catalog
from foreseen.client.effects import HearReplies, Steps
from foreseen.client.publishing import Led, Publishing, Refused
from foreseen.client.submission import Source, Submission
from foreseen.client.table import Table
from foreseen.flights import Flights, Joined, nonce
from foreseen.message import MAX_PRIORITY
from foreseen.settings import Settings

__all__ = ["Direct"]

_NEVER: Final = float("inf")


class Direct:
    """Sends submissions to the workers without the cache.

    Args:
        settings: of the deployment, which says whether that is wanted.
        flights: knows the names.
        catalog: knows the cards; who is not in it cannot be asked without the cache.
        table: of the open submissions.

    Attributes:
        queue: of replies, this producer's own.
        sent: submissions that were sent so.
    """

    def __init__(self, settings: Settings, flights: Flights, catalog: Catalog, table: Table) -> None:
        self.queue = flights.space.replies(nonce())
        self.is_on = settings.without_cache == "compute"
        self.sent = 0
        self._lease_s = settings.lease_s
        self._catalog = catalog
        self._table = table
        self._publishing = Publishing(settings, catalog, reply_to=self.queue)

    def takes(self, submission: Submission) -> bool:
        """Tell whether a submission can be sent so, and was not yet."""
        return (
            self.is_on
            and submission.canonical is not None
            and not submission.direct
            and self._catalog.knows(submission.key.model_id)
        )

    def submit(self, submissions: Sequence[Submission]) -> Steps[list[Refused]]:
        """Send submissions; return who could not be sent, and why.

        Raises:
            BrokerUnavailable: replies cannot be heard.
        """
        yield HearReplies()
        leading = [self._lead(submission) for submission in submissions if not self._follow(submission)]
        refused = (yield from self._publishing.publish(leading)) if leading else []
        self._note(leading, {submission for submission, _ in refused})
        return refused

    def send_now(self, submissions: Sequence[Submission]) -> Steps[None]:
        """Send submissions of one model that wait in flights nobody can look at; who cannot be sent looks again."""
        yield HearReplies()
        leading = [self._lead(submission) for submission in submissions if not self._follow(submission)]
        if leading:
            not_sent = yield from self._publishing.send_now(leading)
            self._note(leading, {submission for submission, _ in not_sent})

    def _lead(self, submission: Submission) -> Led:
        """Let a submission be answered under a token of its own."""
        token = nonce()
        deadline_at, now = _until(submission), time.monotonic()
        deadline_ms = 0 if deadline_at == _NEVER else round((time.time() + deadline_at - now) * 1000)
        self._enter(submission, token, Source.COMPUTED)
        return submission, Joined(
            led=True, publish=True, token=token, order=0, wait_ms=0, now_ms=0,
            deadline_ms=deadline_ms, priority=MAX_PRIORITY,
        )  # fmt: skip

    def _follow(self, submission: Submission) -> bool:
        """Let a submission be answered with one of this process that was sent and asks for as long, if there is one."""
        for other in self._table.beside(submission):
            if other.direct and _until(other) >= _until(submission):
                self._enter(submission, other.direct, Source.COALESCED)
                submission.direct = other.direct
                return True
        return False

    def _enter(self, submission: Submission, token: str, source: Source) -> None:
        submission.source = submission.source or source
        submission.tokens += (token,)
        self._table.joined(submission, self._lease_s)

    def _note(self, leading: Sequence[Led], not_sent: set[Submission]) -> None:
        for submission, joined in leading:
            if submission not in not_sent:
                submission.direct = joined.token
                self.sent += 1


def _until(submission: Submission) -> float:
    """Return until when its computation may begin (monotonic seconds)."""
    return min(at for at in (submission.deadline_at, submission.patient_until, _NEVER) if at is not None)
