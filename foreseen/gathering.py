"""Natural batching for threads: what is asked while every line is busy gathers, and goes together over the next one.

A line is whatever carries one round trip at a time, such as a connection. A caller who finds one free carries his own
call, and with it what others have waiting; everybody else sleeps until his answer is there, or a line is free and it is
he who carries. No thread of its own, no timer, nothing added for a lone caller.

An exception may end any thread at any step (an interrupt, a time limit). One that carries puts back what it carried for
others; and whoever has slept longer than any round trip takes, since even that was cut short, goes by himself.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, Generic, TypeVar

__all__ = ["Gathering"]

Line = TypeVar("Line")
Work = TypeVar("Work")
Answer = TypeVar("Answer")


class _Parcel(Generic[Work, Answer]):
    """What one caller asks, where the answer goes, and what wakes him."""

    __slots__ = ("answer", "error", "is_answered", "size", "waking", "work")

    answer: Answer

    def __init__(self, work: Work, size: int) -> None:
        self.work = work
        self.size = size
        self.error: Exception | None = None
        self.is_answered = False
        self.waking = threading.Lock()
        self.waking.acquire()

    def wake(self) -> None:
        with suppress(RuntimeError):  # he has been woken, and has not noticed yet
            self.waking.release()

    def succeed(self, answer: Answer) -> None:
        self.answer = answer
        self.is_answered = True
        self.wake()

    def fail(self, error: Exception) -> None:
        own = copy.copy(error)  # each caller raises one of his own: raising adds to an error's traceback
        own.__cause__ = error.__cause__
        self.error = own
        self.is_answered = True
        self.wake()

    def take(self) -> Answer:
        if self.error is None:
            return self.answer
        try:
            raise self.error
        finally:
            self.error = None  # the error has this frame in its traceback: neither is to keep the other


class Gathering(Generic[Line, Work, Answer]):
    """Lines, and what waits for one.

    Args:
        lines: that carry; as many round trips are in the air at a time.
        new_line: makes one more, for a caller who has waited longer than any round trip takes.
        carry: makes a round trip for several callers; their answers in order, or the error that all of them are told.
        most: what may share a round trip, in whatever `send` counts; more only if one caller alone brings more.
        patience_s: longer than this takes no round trip.
    """

    def __init__(
        self,
        lines: Iterable[Line],
        new_line: Callable[[], Line],
        carry: Callable[[Line, Sequence[Work]], Sequence[Answer]],
        *,
        most: int,
        patience_s: float,
    ) -> None:
        self._idle = deque(lines)
        self._n_lines: Final = len(self._idle)
        self._new_line = new_line
        self._carry = carry
        self._most = most
        self._patience_s = patience_s
        self._waiting: deque[_Parcel[Work, Answer]] = deque()

    def send(self, work: Work, size: int = 1) -> Answer:
        """Have it carried and return its answer, or raise the error of the round trip that it went with."""
        if not self._waiting:
            try:
                line = self._idle.pop()
            except IndexError:
                pass
            else:
                try:
                    return self._carry(line, (work,))[0]
                finally:
                    self.give_back(line)
        return self._gather(_Parcel(work, size))

    def idle(self) -> list[Line]:
        """Take the lines that are free; each is to be given back."""
        lines: list[Line] = []
        with suppress(IndexError):
            while True:
                lines.append(self._idle.pop())
        return lines

    def give_back(self, line: Line) -> None:
        """Free a line, and wake whoever is to carry over it."""
        if len(self._idle) < self._n_lines:
            self._idle.append(line)
        self._wake_next()

    def tell_all(self, error: Exception) -> None:
        """Answer everything that waits for a line with an error."""
        with suppress(IndexError):
            while True:
                self._waiting.popleft().fail(error)

    def _gather(self, own: _Parcel[Work, Answer]) -> Answer:
        self._waiting.append(own)
        try:
            while not own.is_answered:
                if self._carry_gathered() or own.waking.acquire(timeout=self._patience_s):
                    continue
                if own not in self._waiting:  # whoever took it along was cut short
                    self._waiting.appendleft(own)
                self._idle.append(self._new_line())
        finally:
            if not own.is_answered:
                with suppress(ValueError):
                    self._waiting.remove(own)
                self._wake_next()  # the wake may have been for this thread
        return own.take()

    def _carry_gathered(self) -> bool:
        """Carry what waits, if there is a line for it; True if anything was carried."""
        try:
            line = self._idle.pop()
        except IndexError:
            return False
        parcels: list[_Parcel[Work, Answer]] = []
        try:
            size = 0
            with suppress(IndexError):  # another thread took the last one
                while self._waiting and (not parcels or size + self._waiting[0].size <= self._most):
                    parcels.append(self._waiting.popleft())
                    size += parcels[-1].size
            if parcels:
                answers = self._carry(line, [parcel.work for parcel in parcels])
                for parcel, answer in zip(parcels, answers, strict=True):
                    parcel.succeed(answer)
        except Exception as error:  # noqa: BLE001 - each who waits is told, whatever it is
            for parcel in parcels:
                parcel.fail(error)
        except BaseException:  # this thread alone is interrupted
            self._waiting.extendleft(parcel for parcel in reversed(parcels) if not parcel.is_answered)
            raise
        finally:
            self.give_back(line)
        return bool(parcels)

    def _wake_next(self) -> None:
        if self._waiting:
            with suppress(IndexError):  # another thread took the last one
                self._waiting[0].wake()
