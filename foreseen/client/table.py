"""The open submissions of a process: who waits for which key, and when each looks again."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from foreseen.client.submission import Answer, Submission
from foreseen.errors import ProducerClosed
from foreseen.flights import Kind
from foreseen.keys import Key

__all__ = ["Table"]

#: An order that no entry has; a double holds it exactly.
NEVER: Final = 2**53 - 1
#: So many looks may be noted of submissions that are answered, beside as many as are open.
_SLACK: Final = 500


class _Group(dict[Submission, None]):
    """The open submissions of one key, in order of arrival; of several, the latest serial of each kind."""

    __slots__ = ("serials",)

    def __init__(self) -> None:
        self.serials: dict[Kind, int] = {}


class Table:
    """Open submissions by digest and by when they look again. Safe for threads; calls nobody under its lock.

    Args:
        watch: called with each submission that is given its answer.
    """

    def __init__(self, watch: Callable[[Submission], object] | None = None) -> None:
        self._watch = watch
        self._lock = threading.Lock()
        self._groups: dict[str, _Group] = {}
        self._n_open = 0
        self._due: list[tuple[float, int, Submission]] = []
        self._ties = itertools.count()
        self.closed = False

    def add(self, submission: Submission) -> None:
        """Register a submission before its join is sent, so that no push can slip by.

        Raises:
            ProducerClosed: nobody would end it any more.
        """
        digest = submission.key.digest
        with self._lock:
            if self.closed:
                raise ProducerClosed("The producer is closed; make another one.")
            group = self._groups.get(digest)
            if group is None:
                group = self._groups[digest] = _Group()
            group[submission] = None
            self._n_open += 1

    def joined(self, submission: Submission, wait_s: float) -> bytes | None:
        """Note that its join was answered; look again after `wait_s`. Returns the entry of a push that came earlier."""
        with self._lock:
            submission.joining = False
            if submission.answer is not None:
                return None
            group = self._groups.get(submission.key.digest)
            if group is not None and len(group) > 1:  # who is alone knows his own, and who comes later has a later one
                group.serials[submission.kind] = max(group.serials.get(submission.kind, 0), submission.serial)
            early = [entry for tokens, entry in submission.early if submission.joined_any(tokens)]
            submission.early = ()
            if any(early):
                self._schedule(submission, time.monotonic() + wait_s)  # should it prove to be unreadable
                return next(filter(None, early))
            if early:  # only the name travelled
                wait_s = 0.0
            self._schedule(submission, 0.0 if submission.hurry else time.monotonic() + wait_s)
            submission.hurry = False
        return None

    def pushed(self, digest: str, tokens: str, entry: bytes) -> list[Submission]:
        """Return the submissions that a push answers; those that are still joining keep it for later."""
        with self._lock:
            group = self._groups.get(digest)
            if group is None:
                return []
            answered: list[Submission] = []
            for submission in group:
                if submission.joined_any(tokens):
                    answered.append(submission)
                    submission.early += ((tokens, entry),)  # for a repeat that registers before this one is settled
                elif submission.joining:
                    submission.early += ((tokens, entry),)
            if not entry:  # only the name travelled: look for it now
                for submission in answered:
                    self._look_now(submission)
            return answered if entry else []

    def settle(self, submission: Submission, answer: Answer) -> bool:
        """Give a submission its one answer; False if it has one."""
        with self._lock:
            if submission.answer is not None:
                return False
            submission.answer = answer
            submission.early = ()
            self._remove(submission)
            # Its owner and it would else keep each other alive until the next collection.
            listener, submission.on_answer = submission.on_answer, None
        if self._watch is not None:
            self._watch(submission)
        if listener is not None:
            listener(answer)
        return True

    def withdraw(self, submission: Submission) -> tuple[bool, int]:
        """Take a submission out, unanswered.

        Returns:
            Whether it was in, and the serial that a leave is to name, 0 if others of its kind still want the key.
        """
        with self._lock:
            return self._take_out(submission)

    def stray(self, submission: Submission) -> int:
        """Return the serial that a leave of one that joined too late is to name; 0 as in `withdraw`."""
        with self._lock:
            return 0 if self._is_wanted(submission) else submission.serial

    def repeat(self, first: Submission, repeat: Submission, wait_s: float) -> Answer | bytes | None:
        """Register a submission in the place of `first`, which asks for the same key in the same call.

        Returns:
            What `first` was answered with, or the entry of a push that is about to answer it.

        Raises:
            ProducerClosed: nobody would end it any more.
        """
        self.add(repeat)
        with self._lock:
            repeat.tokens, repeat.serial = first.tokens, first.serial
            repeat.not_before, repeat.joining = first.not_before, False
            self._schedule(repeat, time.monotonic() + wait_s)
            if first.answer is not None:
                return first.answer
            return next((entry for tokens, entry in first.early if entry and repeat.joined_any(tokens)), None)

    def move(self, submission: Submission, key: Key, *, pushed: bool) -> None:
        """Have an open submission wait for another key, from the beginning: it looks there at once.

        Not while a look of it is in the air: if it was `pushed`, and no such look told of it, the next one will.
        """
        with self._lock:
            if not self._holds(submission):
                return
            if pushed and submission.joining:
                submission.hurry = True
                return
            self._remove(submission)
            self._begin_anew(submission, key)
            submission.joining = False
            self._schedule(submission, 0.0)

    def transfer(self, submission: Submission, key: Key) -> tuple[bool, int]:
        """Have an open submission wait for another key instead, whose join, or look, the caller sends next.

        Returns:
            What `withdraw` does of the key that it waited for.
        """
        with self._lock:
            if submission.key == key and self._holds(submission):  # somebody has done so before
                submission.joining = True
                return True, 0
            was_open, serial = self._take_out(submission)
            if was_open:
                self._begin_anew(submission, key)
                submission.joining = True
            return was_open, serial

    def beside(self, submission: Submission) -> list[Submission]:
        """Return the other open submissions of its key."""
        with self._lock:
            group = self._groups.get(submission.key.digest)
            return [] if group is None else [other for other in group if other is not submission]

    def due(self, at: float, limit: int) -> list[Submission]:
        """Take up to `limit` submissions that are to look again by `at` (monotonic seconds)."""
        taken: list[Submission] = []
        with self._lock:
            while self._due and len(taken) < limit and self._due[0][0] <= at:
                when, _, submission = heapq.heappop(self._due)
                if when == submission.due_at and not submission.joining and self._holds(submission):
                    submission.joining = True
                    taken.append(submission)
        return taken

    def next_due(self) -> float | None:
        """Return when the next submission looks again (monotonic seconds)."""
        with self._lock:
            return self._due[0][0] if self._due else None

    def everybody_looks_now(self) -> None:
        """Make every open submission look again at once: pushes may have been missed."""
        with self._lock:
            for group in self._groups.values():
                for submission in group:
                    self._look_now(submission)

    def watch(self, submission: Submission, on_answer: Callable[[Answer], None]) -> None:
        """Call `on_answer` once, with the answer: now if there is one, else on the thread that brings it."""
        self.watch_all([(submission, on_answer)])

    def watch_all(self, watched: Sequence[tuple[Submission, Callable[[Answer], None]]]) -> None:
        """Do the same for many, which takes the lock once: a thread that hears pushes wants it all the time."""
        answered: list[tuple[Answer, Callable[[Answer], None]]] = []
        with self._lock:
            for submission, on_answer in watched:
                if submission.answer is None:
                    submission.on_answer = on_answer
                else:
                    answered.append((submission.answer, on_answer))
        for answer, on_answer in answered:
            on_answer(answer)

    def close(self) -> Iterable[Submission]:
        """Refuse what comes later, and return what is open."""
        with self._lock:
            self.closed = True
            return [submission for group in self._groups.values() for submission in group]

    def __bool__(self) -> bool:
        """Whether anything is open; without the lock, since what it tells may be over at once anyway."""
        return bool(self._groups)

    def __len__(self) -> int:
        with self._lock:
            return self._n_open

    def _take_out(self, submission: Submission) -> tuple[bool, int]:
        group = self._groups.get(submission.key.digest)
        if submission.answer is not None or group is None or submission not in group:
            return False, 0
        serial = max(group.serials.get(submission.kind, 0), submission.serial)
        self._remove(submission)
        return True, 0 if self._is_wanted(submission) else serial

    def _begin_anew(self, submission: Submission, key: Key) -> None:
        submission.key, submission.tokens, submission.early, submission.direct = key, (), (), ""
        submission.not_before = NEVER if submission.refresh else 0
        submission.hurry = False
        self._groups.setdefault(key.digest, _Group())[submission] = None
        self._n_open += 1

    def _holds(self, submission: Submission) -> bool:
        group = self._groups.get(submission.key.digest)
        return group is not None and submission in group

    def _is_wanted(self, submission: Submission) -> bool:
        """Tell whether another open submission of its kind wants its key."""
        group = self._groups.get(submission.key.digest)
        return group is not None and any(other.kind is submission.kind for other in group if other is not submission)

    def _look_now(self, submission: Submission) -> None:
        if submission.joining:  # once that is answered
            submission.hurry = True
        else:
            self._schedule(submission, 0.0)

    def _schedule(self, submission: Submission, at: float) -> None:
        submission.due_at = at
        heapq.heappush(self._due, (at, next(self._ties), submission))

    def _remove(self, submission: Submission) -> None:
        digest = submission.key.digest
        group = self._groups.get(digest)
        if group is not None and submission in group:
            del group[submission]
            if not group:
                del self._groups[digest]
            self._n_open -= 1
            if len(self._due) > 2 * self._n_open + _SLACK:  # else what is answered is kept for as long as a lease
                self._due = [each for each in self._due if each[0] == each[2].due_at and self._holds(each[2])]
                heapq.heapify(self._due)
