"""Hits, counted by who is answered: a look-up that finds an entry writes nothing, so that nobody else can.

Every hit pays for this, so it is a few additions, and names a key only now and then. What was counted is sent every
other second, with a round trip that goes anyway; a process that dies takes that much with it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from foreseen.entry import cost_us_in
from foreseen.keys import Key

__all__ = ["NO_HITS", "SAMPLED", "TALLY_S", "Counted", "Hits", "Tally", "taken"]

#: Between two that are sent.
TALLY_S: Final = 2.0
#: One hit in so many has its key noted, at a random distance: keys that come in turns are met as often as each other.
SAMPLED: Final = 16
#: Keys that are noted between two tallies; what is hot is met among the first.
_MOST_NOTED: Final = 512
#: Of those, how many are told: the hottest.
_MOST_TOLD: Final = 16
#: A key is told by the digits of its digest that people are shown, the first 8 of its last 40.
_SHORT: Final = slice(-40, -32)


class Counted(NamedTuple):
    """What was counted.

    Attributes:
        hits: how many.
        saved_us: what the computations had cost whose results answered.
        keys: the hits of the hottest, by the first digits of their digests, as far as samples tell.
        unreadable: entries that could not be read, and answered nobody.
    """

    hits: int
    saved_us: int
    keys: Mapping[str, int]
    unreadable: int = 0


NO_HITS: Final = Counted(0, 0, {})


class Hits:
    """Hits on one model since they were last taken. Not safe for threads: whoever owns it holds a lock.

    Attributes:
        saved_us: what the computations had cost.
        left: hits until the next whose key is noted; how many there were follows from it.
        unreadable: entries that could not be read.
        samples: how many keys were ever noted.
    """

    __slots__ = ("_distance", "_noted", "_passed", "left", "samples", "saved_us", "unreadable")

    def __init__(self) -> None:
        self.saved_us = self.unreadable = self._passed = self.samples = 0
        self.left = self._distance = random.randrange(SAMPLED)
        self._noted: dict[str, int] = {}

    def note(self, name: str, saved_us: int) -> None:
        """Count one, on the key or entry of which `name` ends with the digest."""
        self.saved_us += saved_us
        self.left -= 1
        if self.left < 0:
            self.sample(name)

    def note_many(self, names: Sequence[str], saved_us: int) -> None:
        """Count one on each, which together saved so much."""
        self.saved_us += saved_us
        next_noted = self.left
        while next_noted < len(names):
            self.sample(names[next_noted])
            next_noted += self.left + 1
        self.left = next_noted - len(names)

    def sample(self, name: str) -> None:
        """Note the key of the hit that was just counted, and draw which is the next."""
        self.samples += 1
        self._passed += self._distance + 1
        self.left = self._distance = random.randrange(2 * SAMPLED - 1)  # SAMPLED - 1 on average
        noted = self._noted.get(name)
        if noted is not None or len(self._noted) < _MOST_NOTED:
            self._noted[name] = (noted or 0) + 1

    def take(self) -> Counted:
        """Return what was counted, and begin anew."""
        hottest = sorted(self._noted.items(), key=lambda item: (-item[1], item[0]))[:_MOST_TOLD]
        keys = {name[_SHORT]: SAMPLED * noted for name, noted in hottest}
        counted = Counted(self._passed + self._distance - self.left, self.saved_us, keys, self.unreadable)
        self.saved_us = self.unreadable = self._passed = 0
        self._distance = self.left
        self._noted = {}
        return counted


class Tally:
    """Hits by model. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[tuple[str, str], Hits] = {}
        self._due_at = time.monotonic() + TALLY_S

    def hit(self, key: Key, entry: bytes) -> bool:
        """Count a look-up that an entry answered; tell whether it is in the sample of one in `SAMPLED`."""
        with self._lock:
            hits = self._of(key)
            is_sampled = hits.left == 0
            hits.note(key.digest, cost_us_in(entry))
        return is_sampled

    def hits(self, keys: Sequence[Key], entries: Iterable[bytes]) -> int:
        """Count look-ups of one model that entries answered, one each.

        Returns:
            How many of them are in the sample.
        """
        digests, saved_us = [key.digest for key in keys], sum(map(cost_us_in, entries))
        with self._lock:
            hits = self._of(keys[0])
            before = hits.samples
            hits.note_many(digests, saved_us)
            return hits.samples - before

    def stale(self, key: Key, entry: bytes) -> None:
        """Count what was saved by an entry past its fresh life, which the script that said so has counted."""
        with self._lock:
            self._of(key).saved_us += cost_us_in(entry)

    def unreadable(self, key: Key) -> None:
        """Count an entry that was found and could not be read."""
        with self._lock:
            self._of(key).unreadable += 1

    @property
    def is_due(self) -> bool:
        """Whether it is time to send it."""
        return time.monotonic() >= self._due_at

    def take(self) -> dict[str, Counted]:
        """Return what was counted since the last time, by `model@version`."""
        with self._lock:
            self._due_at = time.monotonic() + TALLY_S
            return taken({"@".join(found): hits for found, hits in self._models.items()})

    def _of(self, key: Key) -> Hits:
        found = key[:2]  # model and version
        return self._models.get(found) or self._models.setdefault(found, Hits())


def taken(models: Mapping[str, Hits]) -> dict[str, Counted]:
    """Take what was counted of each model, of which anything was."""
    every = ((model_id, hits.take()) for model_id, hits in models.items())
    return {model_id: counted for model_id, counted in every if counted != NO_HITS}
