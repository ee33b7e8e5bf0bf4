"""The near cache: entries that a producer keeps in its own memory, and the rules that keep them honest; without I/O.

Whoever holds the connection on which the server tells of changes (`foreseen.client.tracking`) says what came over it.
From that follows what may be answered:

- nothing unless a ping that was sent less than a second ago was answered: that second is the staleness promised;
- nothing past its time by the server's clock, of which the answers to pings tell;
- nothing whose entry, or whose bucket's generation, has changed, as far as was heard. A look-up may be in the air when
  its change is heard: its answer is not kept then, since it may be the old one.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterable
from sys import getsizeof
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from cachetools import LRUCache

from foreseen.canonical import CanonicalInput
from foreseen.client.submission import Source
from foreseen.client.tally import Counted, Hits, taken
from foreseen.entry import Entry
from foreseen.keys import Key, KeySpace
from foreseen.near_cache import NearCache
from foreseen.outcome import Outcome, Result
from foreseen.payload import PLAIN

if TYPE_CHECKING:
    from foreseen.client.events import Events

__all__ = ["ALIVE_S", "Near"]

#: How long an answered ping vouches for the connection, from when it was sent.
ALIVE_S: Final = 1.0
#: Changes that are remembered for look-ups in the air: 0.4 s of them at 5,000 a second. They take 0.5 MB at most.
_REMEMBERED: Final = 2048
#: An entry that is refreshed before it expires is left to the server, which draws when, for that many times its scale.
_EARLY: Final = 5
#: What an item takes beside its strings: itself, and its places in five dictionaries; measured with CPython 3.11.
_ITEM_BYTES: Final = 1000

#: What an exact text or exact bytes are found by: for these two types alone is Python's equality that of keys.
_Exact: TypeAlias = tuple[tuple[str, str], type, str | bytes]


class _Item(NamedTuple):
    """What is kept of an entry that was checked.

    Attributes:
        outcome: of a value that nobody can change, handed out to all; None for others.
        entry: those others, unpacked for each who asks.
        until_s: when it turns stale, or is to be refreshed, in seconds since 1970 by the server's clock.
        generation: name of its bucket's.
        exact: its other name, if the input was a text or bytes.
        n_bytes: what it takes.
        cost_us: what its computation cost.
        hits: those of its model.
    """

    outcome: Outcome | None
    entry: Entry | None
    until_s: float
    generation: str
    exact: _Exact | None
    n_bytes: int
    cost_us: int
    hits: Hits


class _Items(LRUCache[str, _Item]):
    """Items by the name of their entry, bounded in bytes, and the two other ways to them. Not safe for threads.

    Attributes:
        exact: names by model, type and input.
        generations: names by that of their bucket's generation.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, getsizeof=lambda item: item.n_bytes)
        self.exact: dict[_Exact, str] = {}
        self.generations: dict[str, set[str]] = {}

    def put(self, name: str, item: _Item) -> None:
        """Keep an item in the place of what has that name, and drop for it what was not asked for for the longest."""
        self.pop(name, None)
        if item.n_bytes > self.maxsize:
            return
        self[name] = item
        self.generations.setdefault(item.generation, set()).add(name)
        if item.exact is not None:
            self.exact[item.exact] = name

    def __delitem__(self, name: str) -> None:  # whoever drops one comes by here: evictions do, too
        item = self[name]
        super().__delitem__(name)
        if item.exact is not None:
            del self.exact[item.exact]
        names = self.generations[item.generation]
        names.remove(name)
        if not names:
            del self.generations[item.generation]

    def clear(self) -> None:
        super().clear()
        self.exact.clear()
        self.generations.clear()


class Near:
    """The near cache of one producer. Safe for threads.

    Args:
        space: where the keys are.
        max_bytes: what it may hold, inputs included.
        clock: monotonic seconds.
        events: note what `look` answers, if any do.
    """

    def __init__(
        self,
        space: KeySpace,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        events: Events | None = None,
    ) -> None:
        self._space = space
        self._events = events
        self._clock = clock
        self._lock = threading.Lock()
        self._items = _Items(max_bytes)
        self._is_tracked = False
        self._alive_until = -math.inf
        self._ahead_s = 0.0  # the server's clock is ahead of ours by no more than that
        self._heard = 0  # how often something was heard; look-ups are marked with it
        self._changed: dict[str, int] = {}  # what was heard of late, oldest first, and when
        self._judged_from = 0  # a look-up that was sent before is too old to be judged by what is remembered
        self._hits = self._misses = self._emptied = 0
        self._models: dict[str, Hits] = {}  # hits by `model@version` since they were last taken

    # --- answering ----------------------------------------------------------------------------------------------------

    def look(self, found: tuple[str, str], data: Any) -> Outcome | None:
        """Return what an input's entry holds, if the input is exactly a text or bytes, and it may be answered.

        Args:
            found: the model's name and version.
            data: the input.
        """
        kind = type(data)
        if kind is not str and kind is not bytes:  # True == 1 == 1.0, and a subclass may say what it likes
            return None
        events = self._events
        began = self._clock() if events is not None and events.has_room else 0.0
        with self._lock:
            name = self._items.exact.get((found, kind, data))
            item = None if name is None else self._current(name)
        if name is None or item is None:
            return None
        outcome = _outcome(item)
        if began and events is not None:
            events.note(name, Source.HIT, began)
        return outcome

    def find(self, key: Key) -> Outcome | None:
        """Return what a key's entry holds, if it may be answered."""
        name = self._space.entry(key)
        with self._lock:
            item = self._current(name) if name in self._items else None
        return None if item is None else _outcome(item)

    def sent(self) -> int:
        """Note that a look-up is about to be sent; return the mark that `insert` is to be told with its answer."""
        with self._lock:
            self._misses += 1
            return self._heard

    def insert(self, mark: int, key: Key, canonical: CanonicalInput | None, entry: Entry, outcome: Outcome) -> None:
        """Keep what a look-up found, unless something was heard since that may have made it old.

        Args:
            mark: of the look-up.
            key: of the entry.
            canonical: the input, if it is known.
            entry: what was found, checked and without its signature.
            outcome: what that holds.
        """
        name, generation = self._space.entry(key), self._space.generation(key)
        shared = outcome if isinstance(outcome, Result) and type(outcome.value) in PLAIN else None
        data = _text_or_bytes(canonical)
        exact = None if data is None else ((key.model, key.version), type(data), data)
        held = entry.payload if shared is None else shared.value
        n_bytes = _ITEM_BYTES + sum(map(getsizeof, (name, generation, data, held)))
        unshared = entry if shared is None else None
        early_ms = 0 if entry.refreshing is None else _EARLY * entry.refreshing.early_ms
        until_s = (entry.fresh_until_ms - early_ms) / 1000
        with self._lock:
            if self._clock() + self._ahead_s >= until_s:
                return
            changed = max(self._judged_from, self._changed.get(name, 0), self._changed.get(generation, 0))
            if self._is_tracked and mark >= changed:
                hits = self._models.setdefault(key.model_id, Hits())
                item = _Item(shared, unshared, until_s, generation, exact, n_bytes, entry.cost_us, hits)
                self._items.put(name, item)

    def _current(self, name: str) -> _Item | None:
        """Return an item that there is, if it may be answered; the caller holds the lock."""
        now = self._clock()
        if now >= self._alive_until:
            return None
        item = self._items[name]
        if now + self._ahead_s >= item.until_s:
            del self._items[name]
            return None
        self._hits += 1
        hits = item.hits  # what follows is its `note`, without the call: every near hit pays for it
        hits.saved_us += item.cost_us
        hits.left -= 1
        if hits.left < 0:
            hits.sample(name)
        return item

    # --- hearing ------------------------------------------------------------------------------------------------------

    def tracked(self) -> None:
        """Note that the server has confirmed to tell of every change from now on."""
        with self._lock:
            self._is_tracked = True
            self._forget()

    def answered(self, sent_at: float, server_s: float) -> None:
        """Note that a ping was answered; everything that the server told before it has been noted.

        Args:
            sent_at: when it was sent, by the clock of ours.
            server_s: the server's clock when it answered, in seconds since 1970.
        """
        with self._lock:
            if self._is_tracked:
                self._alive_until = sent_at + ALIVE_S
                self._ahead_s = server_s - sent_at  # as if its answer had taken no time: never too little

    def invalidated(self, names: Iterable[str]) -> None:
        """Drop entries that have changed, and those whose generation has; others' names matter only in the air."""
        with self._lock:
            self._heard += 1
            for name in names:
                self._items.pop(name, None)
                for each in tuple(self._items.generations.get(name, ())):
                    del self._items[each]
                self._changed.pop(name, None)  # so that the oldest comes first
                self._changed[name] = self._heard
            while len(self._changed) > _REMEMBERED:
                self._judged_from = self._changed.pop(next(iter(self._changed)))

    def emptied(self) -> None:
        """Drop everything, and what is in the air."""
        with self._lock:
            self._emptied += 1
            self._forget()

    def lost(self) -> None:
        """Note that the connection was lost: what changes from now on is not heard."""
        with self._lock:
            self._emptied += self._is_tracked
            self._is_tracked = False
            self._alive_until = -math.inf
            self._forget()

    def _forget(self) -> None:
        self._heard += 1
        self._judged_from = self._heard
        self._changed.clear()
        self._items.clear()

    # --- telling ------------------------------------------------------------------------------------------------------

    def take(self) -> dict[str, Counted]:
        """Return the hits since the last time, by `model@version`."""
        with self._lock:
            return taken(self._models)

    def told(self) -> NearCache:
        """Return what was counted."""
        with self._lock:
            is_on = self._clock() < self._alive_until
            n_bytes = int(self._items.currsize)
            return NearCache(self._hits, self._misses, len(self._items), n_bytes, is_on, self._emptied)


def _outcome(item: _Item) -> Outcome:
    if item.outcome is not None:
        return item.outcome
    assert item.entry is not None  # noqa: S101 - for the type checker: one of the two is there
    return item.entry.outcome()


def _text_or_bytes(canonical: CanonicalInput | None) -> str | bytes | None:
    """Return the input that a canonical form stands for, if that is a text or bytes and nothing around it."""
    if canonical is None:
        return None
    if canonical.text.startswith(b'"'):
        escaped = canonical.text[1:-1].decode()
        return json.loads(f'"{escaped}"') if "\\" in escaped else escaped
    return canonical.blobs[0] if canonical.text.startswith(b'{"$bytes":') else None
