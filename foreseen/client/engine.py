"""The client's side of the protocol: submit, look again, leave; as steps without I/O.

What each step must keep is said in docs/protocol.md; the atomic halves of it are the scripts. The file is longer than
most, since the steps share what they must agree on: the table, the calls that ride along, the watermarks.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from foreseen import planted
from foreseen.cache import Command
from foreseen.canonical import CanonicalInput, canonicalize
from foreseen.cards import Card, model_ids_in
from foreseen.client.catalog import Catalog
from foreseen.client.effects import Ask, Pause, Read, Send, Steps
from foreseen.client.near import Near
from foreseen.client.submission import DEFAULT_PRIORITY, Answer, Source, Submission
from foreseen.client.table import Table
from foreseen.entry import HEADER_BYTES, Entry
from foreseen.errors import (
    BrokerUnavailable,
    CacheUnavailable,
    ForeseenError,
    InvalidInput,
    MalformedEntry,
    Misconfigured,
    ProducerClosed,
    QueueFull,
    UnknownKey,
    UnsupportedLayout,
)
from foreseen.flights import Call, Flights, Hit, Joined, Kind, Reply, Unknown, Watermark, nonce
from foreseen.keys import BUCKETS, Key, key_of
from foreseen.message import MAX_PRIORITY, Item, pack_items
from foreseen.outcome import Failure, Outcome, Result
from foreseen.settings import Settings
from foreseen.statistics import count_in

__all__ = ["Engine"]

#: Look-ups that share a round trip: bounds what a client and a server buffer, at about 1 kB each.
CHUNK: Final = 500
#: Leaves and marks that wait for a round trip; what is dropped beyond lapses by itself, or costs a message.
_MAX_RIDING: Final = 20 * CHUNK
#: A look comes this much after the server said, so that a lease that was to end then has ended.
_MARGIN_S: Final = 0.02
#: Pauses while a broker refuses: the first, and the longest.
_FIRST_RETRY_S: Final = 0.05
_LAST_RETRY_S: Final = 1.0


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
        self.table = Table()
        self.near = Near(self.space, settings.near_cache_bytes) if settings.near_cache_bytes else None
        self.inbox = self.space.inbox(nonce())
        self._serials = itertools.count(1)
        # Calls without an answer that matters: the next round trip takes them. Bounded, for when the cache is away.
        self._riding: deque[Call[Any]] = deque(maxlen=_MAX_RIDING)
        self._watermarks: dict[tuple[str, int], Watermark] = {}
        self._largest_entry = settings.max_entry_bytes + HEADER_BYTES
        self._keyring = settings.keyring()

    # --- submitting ---------------------------------------------------------------------------------------------------

    def canonical(self, value: Any) -> CanonicalInput:
        """Return the input's canonical form.

        Raises:
            InvalidInput: it has none, or is too large.
        """
        canonical = canonicalize(value)
        size = len(canonical.text) + sum(map(len, canonical.blobs))
        if size > self.settings.max_input_bytes:
            message = f"The input has {size} bytes; FORESEEN_MAX_INPUT_BYTES allows {self.settings.max_input_bytes}."
            raise InvalidInput(message)
        return canonical

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

    def submission(
        self,
        found: tuple[str, str],
        data: Any,
        kind: Kind,
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        refresh: bool = False,
    ) -> Submission:
        """Return a submission of an input to the model and version `found`.

        Raises:
            InvalidInput: the input has no canonical form or is too large, or the priority is none.
        """
        if not 0 <= priority <= MAX_PRIORITY:
            raise InvalidInput(f"priority {priority} is outside 0 to {MAX_PRIORITY}; {MAX_PRIORITY} is served first")
        canonical = self.canonical(data)
        key = key_of(*found, canonical)
        return Submission(key, canonical, kind, refresh=refresh, priority=priority, deadline_s=deadline_s)

    def submit(self, submissions: Sequence[Submission]) -> Steps[None]:
        """Look up, join or open each; publish what is led. Answers and errors are each submission's own.

        When it returns, each is answered, or in a flight whose message the broker has.

        Raises:
            CacheUnavailable: the look-up failed; the submissions are withdrawn.
            ProducerClosed: the producer was closed before.
        """
        if len(submissions) == 1:
            yield from self._submit_one(submissions[0])
            return
        first: dict[str, Submission] = {}
        repeats: list[Submission] = []
        for submission in submissions:
            if first.setdefault(submission.key.digest, submission) is submission:
                self.table.add(submission)
            else:
                repeats.append(submission)
        try:
            yield from self._look_up(list(first.values()))
        except BaseException:
            self._withdraw(first.values())
            raise
        for repeat in repeats:
            self._repeat(first[repeat.key.digest], repeat)

    def _look_up(self, submissions: Sequence[Submission]) -> Steps[None]:
        if self.near is not None:
            submissions = [each for each in submissions if not self._answers_near(self.near, each)]
        for start in range(0, len(submissions), CHUNK):
            chunk = submissions[start : start + CHUNK]
            replies = yield from self._ask([self.flights.join(self._ticket(submission)) for submission in chunk])
            if self.near is not None and any(type(reply) is Hit for reply in replies):
                yield from self.catalog.glance(chunk[0].key.model_id)  # all are of one model
            yield from self._go_on(chunk, replies)

    def _submit_one(self, submission: Submission) -> Steps[None]:
        """Submit one: the same steps, but for those that a lone hit, the commonest of all calls, has no use for."""
        self.table.add(submission)
        try:
            if self.near is not None and self._answers_near(self.near, submission):
                return
            call = self.flights.join(self._ticket(submission))
            try:
                (reply,) = (yield from self._ask([call])) if self._riding else (yield Ask([call]))
            except CacheUnavailable as error:
                if not planted.is_blamed(error):
                    raise
                (reply,) = yield from self._ask_again([call], [], error)
            if type(reply) is Hit:
                submission.source = Source.HIT
                if self.near is not None:
                    yield from self.catalog.glance(submission.key.model_id)
                if self._answer(submission, reply.entry):
                    return
            yield from self._go_on([submission], [reply])
        except BaseException:
            self._withdraw([submission])
            raise

    def _answers_near(self, near: Near, submission: Submission) -> bool:
        """Answer a submission from the near cache; False if its look-up is to be sent, which is noted there."""
        if submission.refresh:
            return False
        outcome = near.find(submission.key)
        if outcome is None:
            submission.mark = near.sent()
            return False
        submission.source = Source.HIT
        self.table.settle(submission, outcome)
        return True

    def _withdraw(self, submissions: Iterable[Submission]) -> None:
        """Take out submissions whose caller hears an error: their joins may have arrived, and are undone then."""
        for submission in submissions:
            _, serial = self.table.withdraw(submission)
            if serial:
                self._riding.append(self.flights.leave(submission.key, self.inbox, serial, submission.kind))

    def _go_on(self, submissions: Sequence[Submission], replies: Sequence[Reply]) -> Steps[None]:
        """Do what the replies to first joins leave to do."""
        leading, unreadable = self._apply(submissions, replies)
        if unreadable:
            leading += yield from self._join_anew(unreadable)
        if leading:
            yield from self._publish(leading)

    def _join_anew(self, unreadable: Sequence[Submission]) -> Steps[list[tuple[Submission, Joined]]]:
        """Treat entries that cannot be read as misses, and take them away: one may claim to be newer than any."""
        removals: list[Command] = []
        for submission in unreadable:
            removals.append(("DEL", self.space.entry(submission.key)))
            if submission.tokens:
                removals.append(("HDEL", self.space.outcomes(submission.key), *submission.tokens))
        yield Read(removals)
        for submission in unreadable:
            submission.refresh = True
            submission.source = None if submission.source is Source.HIT else submission.source
        replies = yield from self._ask([self.flights.join(self._ticket(submission)) for submission in unreadable])
        return self._apply(unreadable, replies)[0]

    def _apply(
        self, submissions: Sequence[Submission], replies: Sequence[Reply]
    ) -> tuple[list[tuple[Submission, Joined]], list[Submission]]:
        """Take in what joins said; return whose message is to be sent, and who could not read the entry."""
        leading: list[tuple[Submission, Joined]] = []
        unreadable: list[Submission] = []
        for submission, reply in zip(submissions, replies, strict=True):
            match reply:
                case Hit(entry):
                    submission.source = submission.source or Source.HIT
                    if not self._answer(submission, entry):
                        unreadable.append(submission)
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
            submission.tokens.append(reply.token)
        if submission.refresh:
            submission.not_before = reply.order
        early = self.table.joined(submission, reply.wait_ms / 1000 + _MARGIN_S)
        if early is not None and self._answer(submission, early):
            return False
        if submission.answer is None:
            return True
        serial = self.table.stray(submission)
        if serial:
            self._riding.append(self.flights.leave(submission.key, self.inbox, serial, submission.kind))
        return False

    def _repeat(self, first: Submission, repeat: Submission) -> None:
        """Give a submission that repeats another's key, in one call, the other's place."""
        repeat.source = Source.HIT if first.source is Source.HIT else Source.COALESCED
        answer = self.table.repeat(first, repeat, self.settings.lease_s)
        if isinstance(answer, bytes):
            self._answer(repeat, answer)
        elif answer is not None:
            self.table.settle(repeat, answer)

    def _publish(self, leading: Sequence[tuple[Submission, Joined]]) -> Steps[None]:
        """Send messages for submissions of one model; who cannot be sent leaves and is answered with the reason."""
        model_id = leading[0][0].key.model_id
        refused: list[tuple[Submission, ForeseenError]] = []
        fitting: list[tuple[Submission, Joined]] = []
        try:
            card = yield from self.catalog.card(model_id)
        except ForeseenError as error:
            refused = [(submission, error) for submission, _ in leading]
        else:
            for submission, joined in leading:
                misfit = self._misfit(card, submission)
                if misfit is None:
                    fitting.append((submission, joined))
                else:
                    refused.append((submission, misfit))
            if fitting:
                refused += yield from self._send_in_time(card, fitting)
        if refused:
            yield from self._refuse(refused)

    def _misfit(self, card: Card, submission: Submission) -> InvalidInput | None:
        assert submission.canonical is not None  # noqa: S101 - for the type checker: callers publish only what has one
        try:
            self.catalog.validate(card, submission.canonical)
        except InvalidInput as error:
            return error
        return None

    def _send_in_time(
        self, card: Card, leading: Sequence[tuple[Submission, Joined]]
    ) -> Steps[list[tuple[Submission, ForeseenError]]]:
        """Send, and again for as long as the deployment buffers; return who could not be sent, and why."""
        patience = (each.patient_until for each, _ in leading if each.patient_until is not None)
        until = min(time.monotonic() + self.settings.buffer_s, min(patience, default=math.inf))
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

    def _send(self, card: Card, leading: Sequence[tuple[Submission, Joined]]) -> Steps[list[tuple[Submission, Joined]]]:
        """Send messages; return for whom there was no room in the queue."""
        items = [
            (Item(each.key, joined.token, joined.order, joined.deadline_ms, each.canonical), joined.priority)
            for each, joined in leading
            if each.canonical is not None
        ]
        sent_ms = max(joined.now_ms for _, joined in leading)
        messages = pack_items(card.model_id, items, sent_ms, card.max_batch_size, self.settings.max_input_bytes)
        ids = {item.token: message.id for message in messages for item in message.items}
        for submission, joined in leading:  # before: the outcome may be here sooner than this goes on
            submission.task_id = ids[joined.token]
        bounds = {self.space.queue(card.model_id): card.max_queued} if card.max_queued is not None else {}
        not_sent = {message.id for message in (yield Send(messages, bounds))}
        refused: list[tuple[Submission, Joined]] = []
        for submission, joined in leading:
            if submission.task_id in not_sent:
                submission.task_id = None
                refused.append((submission, joined))
            else:
                self._riding.append(self.flights.published(submission.key, joined.token))
        return refused

    def _refuse(self, refused: Sequence[tuple[Submission, ForeseenError]]) -> Steps[None]:
        leaves: list[Call[bool]] = []
        for submission, error in refused:
            _, serial = self.table.withdraw(submission)
            if serial:
                leaves.append(self.flights.leave(submission.key, self.inbox, serial, submission.kind))
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
            queues = {(self.space.queue(each.key.model_id), each.priority) for each in submissions}
            yield from self._read_watermarks(sorted(queues))
            calls: list[Call[Reply]] = []
            for each in submissions:
                watermark = self._watermarks.get((self.space.queue(each.key.model_id), each.priority), Watermark())
                calls.append(self.flights.look(self._ticket(each), ",".join(each.tokens), each.not_before, watermark))
            leading, unreadable = self._apply(submissions, (yield from self._ask(calls)))
            if unreadable:
                leading += yield from self._join_anew(unreadable)
            by_model: dict[str, list[tuple[Submission, Joined]]] = {}
            for submission, joined in leading:
                by_model.setdefault(submission.key.model_id, []).append((submission, joined))
            for group in by_model.values():
                yield from self._send_again(group)
        except BaseException:
            for submission in submissions:
                if submission.joining:
                    self.table.joined(submission, self.settings.lease_s / 4)
            raise

    def _send_again(self, leading: Sequence[tuple[Submission, Joined]]) -> Steps[None]:
        """Send messages for flights that were taken over or whose message seems lost; if that fails, again later."""
        try:
            # Without waiting for a card: this may run where pushes are heard, and they must not wait with it.
            card = yield from self.catalog.card(leading[0][0].key.model_id, wait_s=0)
            yield from self._send(card, leading)
        except ForeseenError:
            return  # still in their flights: the next look sends again

    def _read_watermarks(self, queues: Sequence[tuple[str, int]]) -> Steps[None]:
        replies = yield Read([("HMGET", self.space.watermark(*queue), "passed", "began") for queue in queues])
        for queue, (passed, began) in zip(queues, replies, strict=True):
            self._watermarks[queue] = Watermark(count_in(passed), count_in(began))

    # --- hearing ------------------------------------------------------------------------------------------------------

    def on_push(self, message: bytes) -> None:
        """Take in a message of the inbox: a line `<model@version:digest> <token>,<token>`, then the entry."""
        head, _, entry = message.partition(b"\n")
        key, _, tokens = head.decode("ascii", "replace").partition(" ")
        for submission in self.table.pushed(key.rpartition(":")[2], tokens, entry):
            self._answer(submission, entry)

    def _answer(self, submission: Submission, data: bytes) -> bool:
        """Settle a submission with an entry; False if the bytes cannot be read."""
        if not submission.tokens and len(data) > self._largest_entry:  # who has joined a flight may be told more
            return False
        try:
            entry = self._entry(submission.key, data)
            outcome = entry.outcome()
        except MalformedEntry:
            return False
        except Misconfigured as error:  # an array has come, and there is no numpy
            self.table.settle(submission, error)
            return True
        if self.near is not None:
            self._tell_near(self.near, submission, entry, outcome)
        self.table.settle(submission, outcome)
        return True

    def _tell_near(self, near: Near, submission: Submission, entry: Entry, outcome: Outcome) -> None:
        """Keep near what a look-up has found; and what was computed anew takes the place of what is kept of old."""
        if submission.refresh:
            near.invalidated([self.space.entry(submission.key)])
        elif not submission.tokens and self.catalog.is_near(submission.key.model_id):
            near.insert(submission.mark, submission.key, submission.canonical, entry, outcome)

    def _entry(self, key: Key, data: bytes) -> Entry:
        """Read an entry; where there are keys, only if it was signed for this key of the cache."""
        entry = Entry.decode(data)
        return self._keyring.open(key, entry) if self._keyring else entry

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
            yield from self._ask([self.flights.leave(submission.key, self.inbox, serial, submission.kind)])
        return True

    def leave_soon(self, submissions: Iterable[Submission], answer: Answer) -> None:
        """Do the same for many, without a round trip: the next one takes it along, at the latest that of a tick."""
        for submission in submissions:
            was_open, serial = self.table.withdraw(submission)
            if was_open:
                self.table.settle(submission, answer)
            if serial:
                self._riding.append(self.flights.leave(submission.key, self.inbox, serial, submission.kind))

    def close(self) -> Steps[None]:
        """End open submissions with `ProducerClosed`; waiters leave, what was submitted is still computed."""
        message = "The producer was closed; what was submitted is still computed: attach with pending(key)."
        leaves: list[Call[Any]] = []
        for submission in list(self.table.close()):
            _, serial = self.table.withdraw(submission)
            if serial and submission.kind is Kind.WAITER:
                leaves.append(self.flights.leave(submission.key, self.inbox, serial, submission.kind))
            self.table.settle(submission, ProducerClosed(message))
        yield from self._ask(leaves)

    # --- entries ------------------------------------------------------------------------------------------------------

    def peek(self, key: Key) -> Steps[Result | Failure | None]:
        """Return the current entry's outcome, or None; never computes."""
        (data,) = yield from self._ask([self.flights.peek(key)])
        if data is None or len(data) > self._largest_entry:
            return None
        try:
            return self._entry(key, data).outcome()
        except MalformedEntry:
            return None

    def invalidate(self, key: Key) -> Steps[bool]:
        """Forget one key's entry; True if there was one. Computations that began before cannot bring it back."""
        try:
            (removed,) = yield from self._ask([self.flights.invalidate(key)])
        finally:  # whatever is said of it: it may have been done
            if self.near is not None:
                self.near.invalidated([self.space.entry(key)])
        return bool(removed)

    def purge(self, model: str) -> Steps[int]:
        """Forget every entry of `name@version`, or of every version of `name`; return how many versions there were."""
        name, version = yield from self.find(model)
        model_ids = {f"{name}@{version}"}
        if "@" not in model:
            (known,) = yield Read([("SMEMBERS", self.space.models())])
            model_ids |= {each for each in model_ids_in(known) if each.partition("@")[0] == name}
        for model_id in sorted(model_ids):
            try:
                yield from self._ask([self.flights.purge(model_id, bucket) for bucket in BUCKETS])
            finally:
                if self.near is not None:
                    self.near.invalidated(self.space.generation_of(model_id, bucket) for bucket in BUCKETS)
        return len(model_ids)

    def refresh(self) -> Steps[None]:
        """Look again at what is known of models; should a card have changed, what it says of keeping near may have."""
        if (yield from self.catalog.refresh()) and self.near is not None:
            self.near.emptied()

    # --- round trips --------------------------------------------------------------------------------------------------

    def tick(self) -> Steps[None]:
        """Send what waits for a round trip and found none."""
        yield from self._ask([])

    def _ask(self, calls: Sequence[Call[Any]]) -> Steps[list[Any]]:
        """Ask in one round trip, which takes along what waits for one, such as marks of what was published."""
        riding: list[Call[Any]] = []
        while self._riding and len(riding) < CHUNK:
            try:
                riding.append(self._riding.popleft())
            except IndexError:  # another thread took the last one
                break
        if not riding and not calls:
            return []
        try:
            replies: list[Any] = yield Ask([*riding, *calls] if riding else calls)
        except (CacheUnavailable, UnsupportedLayout) as error:
            if not planted.was_refused(error):
                self._riding.extend(riding)
                raise
            return (yield from self._ask_again(calls, riding, error))
        except BaseException:
            self._riding.extend(riding)
            raise
        return replies[len(riding) :]

    def _ask_again(
        self, calls: Sequence[Call[Any]], riding: Sequence[Call[Any]], error: ForeseenError
    ) -> Steps[list[Any]]:
        """Ask without what rode along: one of those may be what was refused, and would be with every call to come."""
        if planted.is_blamed(error):
            names = planted.touched([*riding, *calls])
            found = yield Read(planted.look(names))
            if removals := planted.removals(names, found):
                yield Read(removals)
        elif not riding:
            raise error
        if not calls:
            return []
        replies: list[Any] = yield Ask(calls)
        return replies

    def _ticket(self, submission: Submission) -> Any:
        return submission.ticket(self.inbox, next(self._serials))
