"""The client's side of the protocol: submit, look again, leave; as steps without I/O.

What each step must keep is said in docs/protocol.md; the atomic halves of it are the scripts. The file is longer than
most, since the steps share what they must agree on: the table, the calls that ride along, the watermarks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from foreseen import planted
from foreseen.canonical import CanonicalInput
from foreseen.cards import model_ids_in
from foreseen.client.asking import CHUNK, Asking
from foreseen.client.catalog import Catalog
from foreseen.client.direct import Direct
from foreseen.client.effects import Read, Steps
from foreseen.client.entries import Entries
from foreseen.client.following import Following
from foreseen.client.forgetting import Forgetting
from foreseen.client.inputs import Inputs
from foreseen.client.publishing import Led, Publishing, Refused
from foreseen.client.reading import NOTHING, entry_in, read_one
from foreseen.client.refreshes import Refreshes
from foreseen.client.submission import Answer, Source, Submission
from foreseen.client.table import Table
from foreseen.client.tagging import Registration
from foreseen.client.watch import Watch
from foreseen.context import NO_CONTEXT, current
from foreseen.entry import LAYOUT
from foreseen.errors import (
    CacheUnavailable,
    ForeseenError,
    ProducerClosed,
    UnknownKey,
)
from foreseen.flights import Call, Due, Flights, Hit, Joined, Kind, Reply, Ticket, Unknown, Watermark, nonce, nonces
from foreseen.keys import Key, key_of
from foreseen.outcome import Outcome
from foreseen.parcels import Command
from foreseen.settings import Settings

__all__ = ["Engine"]

#: Of those whom an entry has answered.
_FROM_ENTRIES: Final = (Source.HIT, Source.STALE)
#: How an entry begins that is not refreshed.
_READABLE: Final = bytes((LAYOUT,))
#: A look comes this much after the server said, so that a lease that was to end then has ended.
_MARGIN_S: Final = 0.02


class Engine:
    """One producer's open submissions and what it knows; no thread, no connection.

    Args:
        settings: of the deployment.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.flights = Flights(settings)
        self.space = self.flights.space
        self.catalog = Catalog(self.space, settings.model_wait_s)
        self.watch = Watch.of(settings)
        self.inputs = Inputs(settings.max_input_bytes, self.watch)
        self.table = Table(self.watch.answered if self.watch is not None else None)
        self._entries = Entries(settings, self.flights, self.catalog, self.table, self.watch)
        self.near = self._entries.near
        #: The near cache, where it may answer without a submission: where nobody wants to see each.
        self.shortcut = None if self.watch is not None and self.watch.sees_all else self.near
        self._habit = self._entries.habit
        self.inbox = self.space.inbox(nonce())
        self._serials = itertools.count(1)
        self._asking = Asking(self.flights, self.inbox)
        self._ask = self._asking.ask
        self._following = Following(self.catalog, self.table, self._asking)
        self._forgetting = Forgetting(self.flights, self._asking, self._entries)
        self._publishing = Publishing(settings, self.catalog, self._asking.marks)
        self._refreshes = Refreshes(self._publishing)
        self.direct = Direct(settings, self.flights, self.catalog, self.table)
        #: Whether it matters how long callers have the patience to wait.
        self.minds_patience = settings.buffer_s > 0 or self.direct.is_on
        self._watermarks: dict[tuple[str, int], Watermark] = {}

    # --- submitting ---------------------------------------------------------------------------------------------------

    def find(self, model: str) -> Steps[tuple[str, str]]:
        """Return name and version of `name` (its current version) or `name@version`; wait for a model not known.

        Raises:
            ModelNotServed: no worker has published it in time.
        """
        return self.catalog.version(model) or (yield from self.catalog.find_version(model))

    def key(self, model: str, canonical: CanonicalInput) -> Steps[Key]:
        """Return the key of an input for `name` (its current version) or `name@version`."""
        name, version = yield from self.find(model)
        return key_of(name, version, canonical)

    def submit(self, submissions: Sequence[Submission]) -> Steps[None]:
        """Look up, join or open each; publish what is led. Answers and errors are each submission's own.

        When it returns, each is answered, or in a flight whose message the broker has, or sent without the cache.

        Raises:
            CacheUnavailable: the look-up failed; the submissions are withdrawn.
            BrokerUnavailable: and they were to be sent without the cache; likewise.
            ProducerClosed: the producer was closed before.
        """
        if len(submissions) == 1 and not submissions[0].tags:
            yield from self.submit_one(submissions[0])
            return
        first: dict[str, Submission] = {}
        repeats = [each for each in submissions if first.setdefault(each.key.digest, each) is not each]
        for repeat in repeats:
            if repeat.tags:  # it has no look-up of its own
                asked = first[repeat.key.digest]
                asked.tags = tuple(dict.fromkeys((*asked.tags, *repeat.tags)))
        left: Sequence[Submission] = list(first.values())
        if self.near is not None:
            left = yield from self._entries.ask_near(self.near, left)
        if self._habit.is_hitting:
            read = yield from self._entries.read([each for each in left if not each.tags])
            left = [*read, *(each for each in left if each.tags)]
        yield from self._submit_all(left)
        for repeat in repeats:
            self._repeat(first[repeat.key.digest], repeat)

    def submit_mixed(self, submissions: Sequence[Submission]) -> Steps[None]:
        """Do the same for submissions of any models, without tags: one round trip, and a script for each."""
        first: dict[str, Submission] = {}
        repeats = [each for each in submissions if first.setdefault(each.key.digest, each) is not each]
        yield from self._submit_all(list(first.values()))
        for repeat in repeats:
            self._repeat(first[repeat.key.digest], repeat)

    def _submit_all(self, submissions: Sequence[Submission]) -> Steps[None]:
        """Look up, join or open each, or have it computed without the cache."""
        try:
            self._enter(submissions)
            yield from self._look_up(submissions)
        except CacheUnavailable as error:
            yield from self._do_without(submissions, error)
        except BaseException:
            self._withdraw(submissions)
            raise

    def _enter(self, submissions: Sequence[Submission]) -> None:
        """Register submissions before their joins are sent, and note who asks, whose thread or task this still is."""
        context = current()
        for submission in submissions:
            if submission.context is NO_CONTEXT:
                submission.context = context
            self.table.add(submission)

    def _look_up(self, submissions: Sequence[Submission]) -> Steps[None]:
        for start in range(0, len(submissions), CHUNK):
            chunk = submissions[start : start + CHUNK]
            replies = yield from self._ask_registered(chunk, self._joins)
            self._habit.note(sum(map(_is_readable, replies)), len(replies))
            yield from self._go_on(chunk, replies)

    def submit_one(self, submission: Submission) -> Steps[None]:
        """Submit one: the same steps, but for those that a lone hit, the commonest of all calls, has no use for."""
        if submission.tags:
            yield from self.submit([submission])
            return
        if self.near is not None and not (yield from self._entries.ask_near(self.near, [submission])):
            return
        command = self.reads(submission)
        if command is not None:
            try:
                (reply,) = yield Read([command])
            except CacheUnavailable:  # which the look-up will find out, too
                reply = NOTHING
            if self.is_read(submission, reply):
                return
        yield from self.submit_unread(submission)

    def reads(self, submission: Submission) -> Command | None:
        """Return the command that reads an entry by itself, where that is likely to be all that is needed."""
        if self._habit.is_hitting and not (
            self._asking.is_laden or submission.refresh or submission.tags or self.table.closed
        ):
            return read_one(self.space, submission.key)
        return None

    def is_read(self, submission: Submission, reply: Sequence[bytes | None]) -> bool:
        """Answer a submission with the entry that was read, if that will do; else `submit_unread` is next."""
        return self._entries.is_hit(submission, entry_in(reply))

    def submit_unread(self, submission: Submission) -> Steps[None]:
        """Look up, join or open, by the script."""
        if submission.context is NO_CONTEXT:
            submission.context = current()
        self.table.add(submission)
        try:
            (call,) = self._joins([submission])
            try:
                (reply,) = yield from self._ask([call], [submission])
            except CacheUnavailable as error:
                if not planted.is_blamed(error):
                    raise
                (reply,) = yield from self._asking.again([call], [], error)
            self._habit.note(_is_readable(reply))
            if type(reply) is Hit:
                submission.source = Source.HIT
                if self._entries.found(submission, reply.entry):
                    return
            yield from self._go_on([submission], [reply])
        except CacheUnavailable as error:
            yield from self._do_without([submission], error)
        except BaseException:
            self._withdraw([submission])
            raise

    def _joins(self, submissions: Sequence[Submission]) -> list[Call[Reply]]:
        return list(map(self.flights.join, self._tickets(submissions)))

    def _ask_registered(
        self, submissions: Sequence[Submission], look_ups: Callable[[Sequence[Submission]], list[Call[Reply]]]
    ) -> Steps[list[Reply]]:
        """Look submissions up, after their keys were registered under their tags; in one round trip.

        What may have escaped an invalidation is forgotten, and looked up once more but by who leads a flight anyway.
        """
        registration = Registration(self.flights, submissions)
        count = len(registration.calls)
        told = yield from self._ask([*registration.calls, *look_ups(submissions)], submissions)
        replies: list[Reply] = told[count:]
        places, settling = registration.doubtful(told[:count], replies)
        if places:
            again = [place for place in places if not _is_led(replies[place])]
            for place in again:
                reply = replies[place]
                if type(reply) is Due and reply.refresh is not None:  # it may be what is joined now
                    self._refreshes.add(submissions[place], reply.refresh)
            keys = [submissions[place].key for place in places]
            yield from self._forgetting.keys(keys)
            told = yield from self._ask([*settling, *look_ups([submissions[place] for place in again])])
            for place, reply in zip(again, told[len(settling) :], strict=True):
                replies[place] = reply
        return replies

    def _do_without(self, submissions: Sequence[Submission], error: CacheUnavailable) -> Steps[None]:
        """Have what is not known to be out computed without the cache, if that is wanted and possible; else raise."""
        left = [each for each in submissions if each.answer is None and (each.joining or each.is_unsent)]
        if not self.direct.is_on or not all(map(self.direct.takes, left)):
            self._withdraw(submissions)
            raise error
        try:
            refused = (yield from self.direct.submit(left)) if left else []
        except BaseException:
            self._withdraw(submissions)
            raise
        for submission, reason in refused:
            self.table.settle(submission, reason)
        self._leave_flights(left)

    def _leave_flights(self, submissions: Iterable[Submission]) -> None:
        """Undo joins that may have arrived of submissions that are answered without."""
        for submission in submissions:
            self._asking.leave_soon(submission, self.table.stray(submission))

    def _withdraw(self, submissions: Iterable[Submission]) -> None:
        """Take out submissions whose caller hears an error: their joins may have arrived, and are undone then."""
        for submission in submissions:
            if self.watch is not None and submission.answer is None:
                self.watch.withdrawn(submission)
            _, serial = self.table.withdraw(submission)
            self._asking.leave_soon(submission, serial)

    def _go_on(self, submissions: Sequence[Submission], replies: Sequence[Reply]) -> Steps[None]:
        """Do what the replies to first joins leave to do."""
        leading, unreadable = self._apply(submissions, replies)
        if unreadable:
            leading += yield from self._join_anew(unreadable)
        if leading:
            refused = yield from self._publishing.publish(leading)
            if refused:
                refused, followed = self._following.refused(refused)
                if followed:
                    replies = yield from self._ask_registered(followed, self._joins)
                    yield from self._go_on(followed, replies)
                yield from self._refuse(refused)

    def _join_anew(self, unreadable: Sequence[Submission]) -> Steps[list[Led]]:
        """Treat entries that cannot be read as misses, and take them away: one may claim to be newer than any."""
        removals: list[Command] = []
        for submission in unreadable:
            self._entries.tally.unreadable(submission.key)
            removals.append(("DEL", self.space.entry(submission.key)))
            if submission.tokens:
                removals.append(("HDEL", self.space.outcomes(submission.key), *submission.tokens))
        yield Read(removals)
        for submission in unreadable:
            submission.refresh = True
            submission.source = None if submission.source in _FROM_ENTRIES else submission.source
        replies = yield from self._ask(self._joins(unreadable))
        return self._apply(unreadable, replies)[0]

    def _apply(self, submissions: Sequence[Submission], replies: Sequence[Reply]) -> tuple[list[Led], list[Submission]]:
        """Take in what joins said; return whose message is to be sent, and who could not read the entry."""
        leading: list[Led] = []
        unreadable: list[Submission] = []
        for submission, reply in zip(submissions, replies, strict=True):
            match reply:
                case Hit(entry):
                    submission.source = submission.source or Source.HIT
                    if not self._entries.found(submission, entry):
                        unreadable.append(submission)
                case Due(entry, stale, refresh):
                    submission.source = submission.source or (Source.STALE if stale else Source.HIT)
                    if not self._entries.found(submission, entry):
                        unreadable.append(submission)
                    if refresh is not None:
                        self._refreshes.add(submission, refresh)
                case Joined():
                    is_open = self._joined(submission, reply)
                    if is_open and reply.publish and submission.canonical is not None:
                        leading.append((submission, reply))
                case Unknown():
                    message = f"Nothing is known of {submission.key}: it was never asked for, or its entry has expired."
                    self.table.settle(submission, UnknownKey(message))
        return leading, unreadable

    def _joined(self, submission: Submission, reply: Joined) -> bool:
        """Note the flight; False if the submission was answered, or has left, while this was in the air."""
        if submission.source is None:
            submission.source = Source.COMPUTED if reply.led else Source.COALESCED
        if reply.token not in submission.tokens:
            submission.tokens += (reply.token,)
        if submission.refresh:
            submission.not_before = reply.order
        early = self.table.joined(submission, reply.wait_ms / 1000 + _MARGIN_S)
        if early is not None and self._entries.answer(submission, early):
            return False
        if submission.answer is None:
            return True
        self._leave_flights([submission])
        return False

    def _repeat(self, first: Submission, repeat: Submission) -> None:
        """Give a submission that repeats another's key, in one call, the other's place."""
        repeat.source = first.source if first.source in _FROM_ENTRIES else Source.COALESCED
        answer = self.table.repeat(first, repeat, self.settings.lease_s)
        if isinstance(answer, bytes):
            self._entries.answer(repeat, answer)
        elif answer is not None:
            self.table.settle(repeat, answer)

    def _refuse(self, refused: Sequence[Refused]) -> Steps[None]:
        """Have who could not be sent leave, and answer each with the reason."""
        leaves: list[Call[bool]] = []
        for submission, error in refused:
            _, serial = self.table.withdraw(submission)
            if serial:
                leaves.append(self._asking.leaving(submission, serial))
            self.table.settle(submission, error)
        if leaves:
            yield from self._ask(leaves)

    # --- looking again ------------------------------------------------------------------------------------------------

    def look(self, submissions: Sequence[Submission]) -> Steps[None]:
        """Look again for submissions that have heard nothing for as long as they were told to wait.

        Raises:
            CacheUnavailable: they look again soon.
        """
        try:
            yield from self._following.looking(submissions)
            queues = {(self.space.queue(each.key.model_id), each.priority) for each in submissions}
            yield from self._read_watermarks(sorted(queues))
            replies = yield from self._ask_registered(submissions, self._looks)  # what the cache has lost, tags too
            leading, unreadable = self._apply(submissions, replies)
            if unreadable:
                leading += yield from self._join_anew(unreadable)
            by_model: dict[str, list[Led]] = {}
            for submission, joined in leading:
                by_model.setdefault(submission.key.model_id, []).append((submission, joined))
            for group in by_model.values():
                yield from self._publishing.send_now(group)
        except CacheUnavailable:
            yield from self._wait_without(submissions)
            self._put_off(submissions)
            raise
        except BaseException:
            self._put_off(submissions)
            raise

    def _looks(self, submissions: Sequence[Submission]) -> list[Call[Reply]]:
        calls: list[Call[Reply]] = []
        for submission, ticket in zip(submissions, self._tickets(submissions), strict=True):
            queue = self.space.queue(submission.key.model_id)
            watermark = self._watermarks.get((queue, submission.priority), Watermark())
            tokens = ",".join(submission.tokens)
            calls.append(self.flights.look(ticket, tokens, submission.not_before, watermark))
        return calls

    def _wait_without(self, submissions: Sequence[Submission]) -> Steps[None]:
        """Have what waits in flights that nobody can look at computed without the cache, where that is wanted."""
        by_model: dict[str, list[Submission]] = {}
        for submission in filter(self.direct.takes, submissions):
            if submission.joining:
                by_model.setdefault(submission.key.model_id, []).append(submission)
        for group in by_model.values():
            try:
                yield from self.direct.send_now(group)
            except ForeseenError:
                return  # the next look tries again

    def _put_off(self, submissions: Sequence[Submission]) -> None:
        for submission in submissions:
            if submission.joining:
                self.table.joined(submission, self.settings.lease_s / 4)

    def _read_watermarks(self, queues: Sequence[tuple[str, int]]) -> Steps[None]:
        from foreseen.statistics import count_in

        replies = yield Read([("HMGET", self.space.watermark(*queue), "passed", "began") for queue in queues])
        for queue, (passed, began) in zip(queues, replies, strict=True):
            self._watermarks[queue] = Watermark(count_in(passed), count_in(began))

    # --- hearing ------------------------------------------------------------------------------------------------------

    def on_push(self, message: bytes) -> None:
        """Take in a message of the inbox: a line `<model@version:digest> <token>,<token>`, then the entry.

        Before the key may stand the computation's trace, and a semicolon.
        """
        head, _, entry = message.partition(b"\n")
        key, _, tokens = head.decode("ascii", "replace").partition(" ")
        for submission in self.table.pushed(key.rpartition(":")[2], tokens, entry):
            if self.watch is not None:
                self.watch.pushed(submission, key.rpartition(";")[0])
            self._entries.answer(submission, entry, pushed=True)

    def count_hit(self, key: Key, entry: bytes) -> None:
        """Count a hit on an entry that was read by other means; the tally is told with the others."""
        self._entries.tally.hit(key, entry)

    # --- leaving ------------------------------------------------------------------------------------------------------

    def leave(self, submission: Submission, answer: Answer) -> Steps[bool]:
        """Take a submission out of its flight and give it `answer`; False if it was answered before.

        It ends nobody else's flight; the last who leaves ends it.
        """
        was_open, serial = self.table.withdraw(submission)
        if not was_open:
            return False
        self.table.settle(submission, answer)
        if serial:
            yield from self._ask([self._asking.leaving(submission, serial)])
        return True

    def leave_soon(self, submissions: Iterable[Submission], answer: Answer) -> None:
        """Do the same for many, without a round trip: the next one takes it along, at the latest that of a tick."""
        for submission in submissions:
            was_open, serial = self.table.withdraw(submission)
            if was_open:
                self.table.settle(submission, answer)
            self._asking.leave_soon(submission, serial)

    def close(self) -> Steps[None]:
        """End open submissions with `ProducerClosed`; waiters leave, what was submitted is still computed."""
        message = "The producer was closed; what was submitted is still computed: attach with pending(key)."
        yield from self._send_behind()
        marks = self._asking.marks.rest()
        leaves: list[Call[Any]] = []
        for submission in list(self.table.close()):
            _, serial = self.table.withdraw(submission)
            if serial and submission.kind is Kind.WAITER:
                leaves.append(self._asking.leaving(submission, serial))
            self.table.settle(submission, ProducerClosed(message))
        yield from self._ask([*marks, *leaves, *self._entries.tallies()])

    # --- entries ------------------------------------------------------------------------------------------------------

    def peek(self, key: Key) -> Steps[Outcome | None]:
        """Return the current entry's outcome, or None; never computes."""
        (data,) = yield from self._ask([self.flights.peek(key)])
        return self._entries.peeked(key, data)

    def invalidate(self, key: Key) -> Steps[bool]:
        """Forget one key's entry; True if there was one. Computations that began before cannot bring it back."""
        (removed,) = yield from self._forgetting.keys([key])
        return removed

    def invalidate_tag(self, tag: str) -> Steps[int]:
        """Forget the entries of all keys that were submitted with a tag; return how many there were.

        Raises:
            InvalidInput: it is no tag.
            CacheUnavailable: some may have been forgotten; do it again.
        """
        return (yield from self._forgetting.tag(tag))

    def purge(self, model: str) -> Steps[int]:
        """Forget every entry of `name@version`, or of every version of `name`; return how many versions there were."""
        name, version = yield from self.find(model)
        model_ids = {f"{name}@{version}"}
        if "@" not in model:
            (known,) = yield Read([("SMEMBERS", self.space.models())])
            model_ids |= {each for each in model_ids_in(known) if each.partition("@")[0] == name}
        yield from self._forgetting.models(sorted(model_ids))
        return len(model_ids)

    def refresh(self) -> Steps[None]:
        """Look again at what is known of models; should a card have changed, what it says of keeping near may have."""
        if (yield from self.catalog.refresh()) and self.near is not None:
            self.near.emptied()

    # --- round trips --------------------------------------------------------------------------------------------------

    def tick(self) -> Steps[None]:
        """Send what nobody waits for: refreshes, audits, and what found no round trip to travel with."""
        yield from self._send_behind()
        if self._entries.tally.is_due:
            self._asking.ride(self._entries.tallies())
        yield from self._ask([])

    def _send_behind(self) -> Steps[None]:
        yield from self._refreshes.send()
        if self._entries.audits is not None:
            yield from self._entries.audits.send()

    def _tickets(self, submissions: Sequence[Submission]) -> list[Ticket]:
        tokens = nonces(len(submissions))
        return [
            each.ticket(self.inbox, next(self._serials), token) for each, token in zip(submissions, tokens, strict=True)
        ]


def _is_readable(reply: Reply) -> bool:
    """Tell whether a look-up found what can be read without the script: an entry that is refreshed never can."""
    return type(reply) is Hit and reply.entry.startswith(_READABLE)


def _is_led(reply: Reply) -> bool:
    return isinstance(reply, Joined) and reply.led
