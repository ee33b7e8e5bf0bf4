"""What entries answer: those of the near cache, those that are read without a script, those that a script has found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from foreseen.client.catalog import Catalog
from foreseen.client.effects import Read, Steps
from foreseen.client.reading import READS, Habit, entries_in, read
from foreseen.client.submission import Answer, Source, Submission
from foreseen.client.table import Table
from foreseen.client.tally import NO_HITS, SAMPLED, Tally
from foreseen.client.watch import Watch
from foreseen.entry import LARGEST_HEADER_BYTES, Entry, outcome_in
from foreseen.errors import CacheUnavailable, ForeseenError, InvalidInput, MalformedEntry, Misconfigured, VersionGone
from foreseen.flights import Call, Flights
from foreseen.keys import Key, key_of
from foreseen.measures import ANSWER, Measures
from foreseen.outcome import Failure, Outcome
from foreseen.settings import Settings

if TYPE_CHECKING:
    from foreseen.client.audits import Audits
    from foreseen.client.near import Near

__all__ = ["Entries", "successor"]


class Entries:
    """Answers submissions with entries, keeps those near, counts the hits, and takes a sample of them to be audited.

    Bytes that cannot be read answer nobody: whoever brought them is told so, and goes on as after a miss.

    Args:
        settings: of the deployment.
        flights: knows the names.
        catalog: says which models' entries may be kept near.
        table: of the open submissions.
        watch: is told of what is answered before it is in the table.

    Attributes:
        near: the near cache, where there is one.
        habit: how much of what was looked up of late could be read.
        tally: of hits, and of what could not be read.
        audits: the sample, where one is taken.
    """

    def __init__(
        self, settings: Settings, flights: Flights, catalog: Catalog, table: Table, watch: Watch | None = None
    ) -> None:
        self._watch = watch
        self._flights = flights
        self._space: Final = flights.space
        self._catalog = catalog
        self._table = table
        self.near: Near | None = None
        if settings.near_cache_bytes:
            from foreseen.client.near import Near

            events = watch.events if watch is not None else None
            self.near = Near(self._space, settings.near_cache_bytes, events=events)
        self.habit = Habit()
        self.tally = Tally()
        self._measures = Measures()
        self.audits: Audits | None = None
        if settings.audit_share:
            from foreseen.client.audits import Audits

            self.audits = Audits(settings.audit_share, catalog)
        self._max_bytes = settings.max_entry_bytes
        self._largest_entry = settings.max_entry_bytes + LARGEST_HEADER_BYTES
        self._keyring = settings.keyring() or None

    # --- before a look-up is sent -------------------------------------------------------------------------------------

    def ask_near(self, near: Near, submissions: Iterable[Submission]) -> Steps[list[Submission]]:
        """Answer from the near cache; return whose look-up is to be sent, which is noted there."""
        left: list[Submission] = []
        for submission in submissions:
            is_asked = submission.refresh or submission.tags or self._table.closed  # the server is told of tags
            submission.answer = None if is_asked else near.find(submission.key)
            if submission.answer is None:
                submission.mark = near.sent()
                left.append(submission)
                yield from self._catalog.glance(submission.key.model_id)  # it says whether that may be kept
            else:
                submission.source = Source.HIT
                if self._watch is not None:
                    self._watch.answered(submission)
        return left

    def read(self, submissions: Sequence[Submission]) -> Steps[list[Submission]]:
        """Answer from entries alone, while that mostly works; return who is left. None of them is in the table yet."""
        left: list[Submission] = []
        for start in range(0, len(submissions), READS):
            part = submissions[start : start + READS]
            if not self.habit.is_hitting or self._table.closed:
                left += part
                continue
            buckets: dict[str, list[Submission]] = {}
            for submission in part:
                buckets.setdefault(submission.key.digest[:2], []).append(submission)
            groups = list(buckets.values())
            try:
                replies = yield Read([read(self._space, [each.key for each in group]) for group in groups])
            except CacheUnavailable:  # which the look-up will find out, too
                left += part
                continue
            hits: list[Key] = []
            found: list[bytes] = []
            for group, reply in zip(groups, replies, strict=True):
                for submission, entry in zip(group, entries_in(reply), strict=True):
                    if entry is not None and self._is_answered(submission, entry):
                        hits.append(submission.key)
                        found.append(entry)
            if hits and (sampled := self.tally.hits(hits, found)):
                self._measure(part[0], Source.HIT, SAMPLED * sampled)
            missed = [submission for submission in part if submission.answer is None]
            self.habit.note(len(part) - len(missed), len(part))
            left += missed
        return left

    def is_hit(self, submission: Submission, entry: bytes | None) -> bool:
        """Answer a submission that is not in the table with the entry that was read, if that will do."""
        if entry is None or not self._is_answered(submission, entry):
            return False
        if self.tally.hit(submission.key, entry):
            self._measure(submission, Source.HIT, SAMPLED)
        return True

    def _is_answered(self, submission: Submission, entry: bytes) -> bool:
        if submission.refresh:
            return False
        submission.answer = self._answer_in(submission, entry)
        if submission.answer is None:
            return False
        submission.source = Source.HIT
        if self._watch is not None:
            self._watch.answered(submission)
        return True

    # --- what was found, or heard -------------------------------------------------------------------------------------

    def found(self, submission: Submission, entry: bytes) -> bool:
        """Settle a submission with what a look-up found, and count that; False if the bytes cannot be read."""
        if not self.answer(submission, entry):
            return False
        if submission.source is Source.HIT:
            if self.tally.hit(submission.key, entry):
                self._measure(submission, Source.HIT, SAMPLED)
        elif submission.source is Source.STALE:
            self.tally.stale(submission.key, entry)
            self._measure(submission, Source.STALE)
        return True

    def answer(self, submission: Submission, data: bytes, *, pushed: bool = False) -> bool:
        """Settle a submission with an entry; False if the bytes cannot be read.

        One that asked by a bare name whose version has no workers left goes on to the version that it means now.
        """
        answer = self._answer_in(submission, data)
        if answer is None:
            return False
        if submission.bare and type(answer) is Failure:
            key = successor(submission, answer.error)
            if key is not None and key != submission.key:
                self._table.move(submission, key, pushed=pushed)
                return True
        source = submission.source
        if self._table.settle(submission, answer) and (source is Source.COMPUTED or source is Source.COALESCED):
            self._measure(submission, source)
        return True

    def peeked(self, key: Key, data: bytes | None) -> Outcome | None:
        """Return what the entry that was found for a key holds; None if there was none, or it cannot be read."""
        if data is None or len(data) > self._largest_entry:
            return None
        try:
            return self._outcome(key, data)
        except MalformedEntry:
            return None

    def _measure(self, submission: Submission, source: Source, weight: int = 1) -> None:
        """Take the time of an answer, for as many as `weight`."""
        self._measures.note(submission.key.model_id, ANSWER, time.monotonic() - submission.began, source, weight)

    # --- telling ------------------------------------------------------------------------------------------------------

    def tallies(self) -> list[Call[Any]]:
        """Return the calls that tell the cache what was hit and measured since the last time."""
        far, near = self.tally.take(), self.near.take() if self.near is not None else {}
        calls: list[Call[Any]] = []
        for model_id in sorted({*far, *near}):
            hits, kept = far.get(model_id, NO_HITS), near.get(model_id, NO_HITS)
            keys = Counter(hits.keys)
            keys.update(kept.keys)
            saved_us = hits.saved_us + kept.saved_us
            calls.append(self._flights.tally(model_id, hits.hits, kept.hits, saved_us, keys, hits.unreadable))
        calls += [self._flights.measure(model_id, fields) for model_id, fields in self._measures.take().items()]
        return calls

    def _answer_in(self, submission: Submission, data: bytes) -> Answer | None:
        """Return what an entry answers a submission with; None if the bytes cannot be read."""
        if not submission.tokens and len(data) > self._largest_entry:  # who has joined a flight may be told more
            return None
        try:
            if self.near is not None:
                outcome = self._kept(self.near, submission, data)
            elif self._keyring:
                outcome = self._outcome(submission.key, data)
            else:
                outcome = outcome_in(data, self._max_bytes)
        except MalformedEntry:
            return None
        except Misconfigured as error:  # an array has come, and there is no numpy
            return error
        if self.audits is not None and not submission.tokens:  # a hit: who joined no flight is answered from an entry
            self.audits.note(submission)
        return outcome

    def _kept(self, near: Near, submission: Submission, data: bytes) -> Outcome:
        """Return what an entry holds, and keep it if a look-up found it; if it was computed anew, the old one goes."""
        entry = Entry.decode(data)
        entry = self._keyring.open(submission.key, entry) if self._keyring else entry
        entry = entry.plain(self._max_bytes)
        outcome = entry.outcome()
        if submission.refresh:
            near.invalidated([self._space.entry(submission.key)])
        elif not (submission.tokens or submission.direct) and self._catalog.is_near(submission.key.model_id):
            near.insert(submission.mark, submission.key, submission.canonical, entry, outcome)
        return outcome

    def _outcome(self, key: Key, data: bytes) -> Outcome:
        """Return what an entry holds; where there are keys, only if it was signed for this key of the cache."""
        if self._keyring:
            return self._keyring.open(key, Entry.decode(data)).plain(self._max_bytes).outcome()
        return outcome_in(data, self._max_bytes)


def successor(submission: Submission, error: ForeseenError) -> Key | None:
    """Return the key of an input for the version in the place of one that is gone; None if that is not the matter."""
    version = error.details.get("current") if isinstance(error, VersionGone) else None
    if submission.canonical is None or not isinstance(version, str):
        return None
    try:
        return key_of(submission.key.model, version, submission.canonical)
    except InvalidInput:
        return None
