"""Putting together what the threads of one process bring for one model, so that one call of it computes them all.

There is no thread of its own: of those that wait, one leads a call and the others wait for what it comes to. When they
start, and with what, `workers.gathered` decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from workers.gathered import Gathered, Waiting
from workers.policies import Batching

__all__ = ["Answered", "Caller", "Gathering"]


class _Thing(Protocol):
    """What can be brought."""

    @property
    def priority(self) -> int: ...

    @property
    def deadline_at(self) -> float: ...


T = TypeVar("T", bound=_Thing)
T_contra = TypeVar("T_contra", bound=_Thing, contravariant=True)


Answered: TypeAlias = Callable[[BaseException | None], None]
"""Lets go of those who wait for a call that does not end; with an error, if they are not answered after all."""


class Caller(Protocol[T_contra]):
    """Who makes a call, in two steps; meanwhile nobody else touches what the call is for."""

    def call(self, batch: Sequence[T_contra], answered: Answered) -> None:
        """Have the model compute them. On another thread, `answered` may let everybody go before this returns."""
        ...

    def tell(self, batch: Sequence[T_contra]) -> None:
        """Do with the outcomes what is to be done; the next call may run meanwhile."""
        ...


class _Party:
    """A thread, while it waits for what it has brought."""

    def __init__(self, lock: threading.Lock, count: int) -> None:
        self.changed = threading.Condition(lock)
        self.left = count  # of what it has brought, not settled yet
        self.is_free = False  # it makes no call
        self.error: BaseException | None = None

    def brought(self, each: _Brought[Any]) -> bool:
        return each.party is self


class _Brought(NamedTuple, Generic[T]):
    thing: T
    party: _Party


class _Call(Generic[T]):
    def __init__(self, brought: Sequence[_Brought[T]], *, has_ended: bool = False) -> None:
        self.brought = brought
        self.has_ended = has_ended  # the next may start
        self.is_settled = False


class Gathering(Generic[T]):
    """What waits for one model in one process, and the threads that wait with it.

    Args:
        batching: how much goes together, and how long it may wait for that.
        clock: monotonic seconds.
    """

    def __init__(self, batching: Batching, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._gathered: Gathered[_Brought[T]] = Gathered(batching)

    def compute(self, things: Sequence[T], caller: Caller[T]) -> None:
        """Return when each of them was in a call, made on this thread or on another's.

        Raises:
            BaseException: what a call with one of them raised; each thread that brought something for it raises it.
        """
        party = _Party(self._lock, len(things))
        with self._lock:
            now = self._clock()
            self._gathered.add(
                Waiting(_Brought(thing, party), thing.priority, now, thing.deadline_at) for thing in things
            )
            while (call := self._next(party)) is not None:
                self._lock.release()
                try:
                    self._make(call, caller)
                finally:
                    self._lock.acquire()
        if party.error is not None:
            raise party.error

    def _next(self, party: _Party) -> _Call[T] | None:
        """Under the lock, wait for a call to make; return None once all that the thread has brought is settled."""
        while party.left:
            now = self._clock()
            if late := self._gathered.late(now):
                return _Call(late, has_ended=True)
            if brought := self._gathered.start(now):
                self._wake_next(now)
                return _Call(brought)
            due_at = self._gathered.due_at(party.brought)
            party.is_free = True
            party.changed.wait(min(max(0.0, due_at - now), threading.TIMEOUT_MAX))
            party.is_free = False
        return None

    def _make(self, call: _Call[T], caller: Caller[T]) -> None:
        things = [each.thing for each in call.brought]

        def answered(error: BaseException | None) -> None:
            self._end(call)
            self._settle(call, error)

        try:
            try:
                caller.call(things, answered)
            finally:
                self._end(call)
            caller.tell(things)
        except BaseException as error:  # noqa: BLE001 - `compute` raises it, wherever somebody waits for this call
            self._settle(call, error)
        else:
            self._settle(call, None)

    def _end(self, call: _Call[T]) -> None:
        """Let the next call start."""
        with self._lock:
            if not call.has_ended:
                call.has_ended = True
                self._gathered.end()
                self._wake_next(self._clock())

    def _settle(self, call: _Call[T], error: BaseException | None) -> None:
        """Let those go who wait for this call; with an error, they wait for nothing else they brought either."""
        with self._lock:
            if call.is_settled:
                return
            call.is_settled = True
            for each in call.brought:
                each.party.left -= 1
            for party in {id(each.party): each.party for each in call.brought}.values():
                if error is not None:
                    party.error = error
                    party.left -= self._gathered.withdraw(party.brought)
                if not party.left:
                    party.changed.notify()

    def _wake_next(self, now: float) -> None:
        """Wake one of those that can start what is left, if anything can be started."""
        if self._gathered.can_start(now):
            free = (each.thing.party for each in self._gathered.waiting if each.thing.party.is_free)
            if party := next(free, None):
                party.changed.notify()
