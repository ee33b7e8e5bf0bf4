"""A producer's round trips to the cache, and what rides along on them: leaves, tallies, marks of what was published.

What rides has no answer that matters. It waits for the next round trip, at the latest that of a tick.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from foreseen import planted
from foreseen.client.effects import Ask, Read, Steps
from foreseen.client.marks import Marks
from foreseen.client.submission import Submission
from foreseen.errors import CacheUnavailable, ForeseenError, UnsupportedLayout
from foreseen.flights import Call, Flights
from foreseen.keys import Key

__all__ = ["CHUNK", "Asking"]

#: Look-ups that share a round trip: bounds what a client and a server buffer, at about 1 kB each.
CHUNK: Final = 500
#: Calls that wait for a round trip; what is dropped beyond lapses by itself, or costs a message.
_MAX_RIDING: Final = 20 * CHUNK


class Asking:
    """Asks the cache, as steps.

    Args:
        flights: builds the calls.
        inbox: of the producer.

    Attributes:
        marks: of what was published.
    """

    def __init__(self, flights: Flights, inbox: str) -> None:
        self._flights = flights
        self._inbox = inbox
        self._riding: deque[Call[Any]] = deque(maxlen=_MAX_RIDING)
        self.marks = Marks(flights, _MAX_RIDING)

    @property
    def is_laden(self) -> bool:
        """Whether anything waits that the next round trip is to take along; marks may wait for a later one."""
        return bool(self._riding)

    def leaving(self, submission: Submission, serial: int, key: Key | None = None) -> Call[bool]:
        """Return the call that takes a submission out of its key's flight, or out of that of another `key`."""
        return self._flights.leave(key or submission.key, self._inbox, serial, submission.kind)

    def leave_soon(self, submission: Submission, serial: int, key: Key | None = None) -> None:
        """Have that ride along; with serial 0 there is nothing to undo."""
        if serial:
            self._riding.append(self.leaving(submission, serial, key))

    def ride(self, calls: Iterable[Call[Any]]) -> None:
        """Have calls ride along."""
        self._riding.extend(calls)

    def ask(self, calls: Sequence[Call[Any]], joining: Sequence[Submission] = ()) -> Steps[list[Any]]:
        """Ask in one round trip, which takes along what waits for one; marks go ahead of those who are `joining`."""
        riding: list[Call[Any]] = []
        while self._riding and len(riding) < CHUNK:
            try:
                riding.append(self._riding.popleft())
            except IndexError:  # another thread took the last one
                break
        if self.marks:
            riding += self.marks.due(CHUNK - len(riding), joining)
        if not riding and not calls:
            return []
        try:
            replies: list[Any] = yield Ask([*riding, *calls] if riding else calls)
        except (CacheUnavailable, UnsupportedLayout) as error:
            if not planted.was_refused(error):
                self._riding.extend(riding)
                raise
            return (yield from self.again(calls, riding, error))
        except BaseException:
            self._riding.extend(riding)
            raise
        return replies[len(riding) :]

    @staticmethod
    def again(calls: Sequence[Call[Any]], riding: Sequence[Call[Any]], error: ForeseenError) -> Steps[list[Any]]:
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
