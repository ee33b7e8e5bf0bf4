"""What waits for a call of a model, and what of it goes into the next: decisions alone, without threads or a clock.

While no call runs, what comes starts at once: a lone input waits for nobody. What comes meanwhile gathers, and starts
as soon as it fills a batch, or a call ends, or the first of it has waited for `max_wait_s`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from workers.policies import Batching

__all__ = ["Gathered", "Waiting"]

T = TypeVar("T")


class Waiting(NamedTuple, Generic[T]):
    """Something that waits.

    Attributes:
        thing: that is to be computed.
        priority: 0 to 9, 9 first.
        came_at: when, in seconds of the clock that all times here are of.
        deadline_at: from then on it is not computed any more.
    """

    thing: T
    priority: int
    came_at: float
    deadline_at: float = float("inf")


class Gathered(Generic[T]):
    """What waits for one model in one process.

    Args:
        batching: how much goes together, and how long it may wait for that.

    Attributes:
        waiting: in the order in which it came.
    """

    def __init__(self, batching: Batching) -> None:
        self._size = batching.max_batch_size
        self._max_wait_s = batching.max_wait_s
        self.waiting: list[Waiting[T]] = []
        self._running = 0
        self._has_ended = False  # while something waited, and nothing has started since

    def add(self, waiting: Iterable[Waiting[T]]) -> None:
        """Let more wait, which came last."""
        self.waiting.extend(waiting)

    def late(self, now: float) -> list[T]:
        """Take what it is too late to compute; whoever takes it answers for it."""
        return self._take([each for each in self.waiting if each.deadline_at <= now])

    def start(self, now: float) -> list[T]:
        """Take what goes into one call that starts now; nothing, if it is to wait.

        Those of the highest priority first, and then as they came.
        """
        if not self.can_start(now):
            return []
        self._running += 1
        self._has_ended = False
        return self._take(sorted(self.waiting, key=_by_priority)[: self._size])

    def can_start(self, now: float) -> bool:
        """Tell whether `start` would take something."""
        if not self.waiting:
            return False
        is_full = len(self.waiting) >= self._size
        return not self._running or self._has_ended or is_full or now >= self.waiting[0].came_at + self._max_wait_s

    def end(self) -> None:
        """Note that a call has ended."""
        self._running -= 1
        self._has_ended = bool(self.waiting)

    def withdraw(self, is_meant: Callable[[T], bool]) -> int:
        """Let those wait no longer; return how many did."""
        before = len(self.waiting)
        self.waiting = [each for each in self.waiting if not is_meant(each.thing)]
        return before - len(self.waiting)

    def due_at(self, is_meant: Callable[[T], bool]) -> float:
        """Return from when on something is to be done with the first of those that wait; infinity if none does."""
        dues = (min(each.came_at + self._max_wait_s, each.deadline_at) for each in self.waiting if is_meant(each.thing))
        return min(dues, default=float("inf"))

    def _take(self, leaving: list[Waiting[T]]) -> list[T]:
        taken = set(map(id, leaving))
        self.waiting = [each for each in self.waiting if id(each) not in taken]
        return [each.thing for each in leaving]


def _by_priority(waiting: Waiting[T]) -> int:
    return -waiting.priority
