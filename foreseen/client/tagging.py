"""Tags: which keys are registered before they are looked up, and what is in a tag's index when it is invalidated.

An index may have been evicted, and invalidations of its tag since have passed over keys that were in it. So whoever
registers a key is told from when on its entries count, or that it is doubted (`scripts/tag.lua`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from foreseen import planted
from foreseen.client.effects import Read, Steps
from foreseen.client.submission import Submission
from foreseen.entry import written_ms_in
from foreseen.errors import CacheUnavailable, InvalidKey
from foreseen.flights import TAG_MS, Call, Due, Flights, Hit, Reply
from foreseen.keys import Key, KeySpace, tag_digest
from foreseen.parcels import Command
from foreseen.tags import check_tag

__all__ = ["PAGE", "Index", "Registration"]

log = logging.getLogger("foreseen.client")

#: Keys of an index that are read at a time: some 100 kB.
PAGE: Final = 1000


class Registration:
    """The registration of submissions that are looked up in one round trip, and what is to be made of its replies.

    Args:
        flights: builds the calls.
        submissions: that are looked up, in their order.
    """

    def __init__(self, flights: Flights, submissions: Sequence[Submission]) -> None:
        self._flights = flights
        self._submissions = submissions
        self._places: dict[str, list[int]] = {}
        for place, submission in enumerate(submissions):
            for tag in submission.tags:
                self._places.setdefault(tag, []).append(place)
        #: To be sent before the look-ups.
        self.calls: list[Call[Any]] = [
            flights.tag(tag, [submissions[place].key for place in places]) for tag, places in self._places.items()
        ]

    def doubtful(self, told: Sequence[Sequence[int]], replies: Sequence[Reply]) -> tuple[list[int], list[Call[Any]]]:
        """Return the places of submissions whose entries are to be forgotten, and what is to be sent once they are.

        Args:
            told: what the calls said.
            replies: what the look-ups said.
        """
        found: set[int] = set()
        settling: list[Call[Any]] = []
        for (tag, places), times in zip(self._places.items(), told, strict=True):
            doubts: dict[Key, int] = {}
            for place, time_ms in zip(places, times, strict=True):
                if time_ms < 0:
                    doubts[self._submissions[place].key] = -time_ms
                if time_ms < 0 or _is_older(replies[place], time_ms):
                    found.add(place)
            if doubts:
                settling.append(self._flights.settle(tag, doubts))
        return sorted(found), settling


def _is_older(reply: Reply, since_ms: int) -> bool:
    """Tell whether a look-up has found an entry that was written before a time."""
    return isinstance(reply, Hit | Due) and written_ms_in(reply.entry) < since_ms


class Index:
    """The keys that were submitted with a tag, page by page, as steps.

    They are in the order of their registering, which is also how pages are found: a key that is registered anew
    meanwhile moves to the end, and is met there. A cursor of the server's would lose some of them in a failover.

    Args:
        space: where the keys are.
        tag: whose index it is.

    Raises:
        InvalidInput: it is no tag.
    """

    def __init__(self, space: KeySpace, tag: str) -> None:
        self._tag = check_tag(tag)
        self._directory, self._index = space.tag_directory(tag), space.tag_index(tag)
        self._from: bytes | int = 0  # score of the last that was read; below are those that are no keys
        self._seen: set[bytes] = set()  # those that have it
        self._size = PAGE
        self._is_read = False

    def open(self) -> Steps[None]:
        """Say so if keys are missing, since an index was lost."""
        listing = ("ZSCORE", self._directory, tag_digest(self._tag))
        (seconds, _), listed, since = yield from self._read(("TIME",), listing, ("ZSCORE", self._index, ""))
        is_listed = listed is not None and float(listed) > int(seconds) * 1000 - TAG_MS
        if is_listed if since is None else float(since) % 1 != 0:  # as `scripts/tag.lua` tells it
            log.warning(
                "The index of tag %s was lost, as by eviction: of keys that were registered before, only those who ask "
                "with the tag have them computed anew. Purge their models to forget them for everybody.", self._tag
            )  # fmt: skip

    def page(self) -> Steps[list[Key]]:
        """Return the next keys; none at the end."""
        while not self._is_read:
            limits = ("WITHSCORES", "LIMIT", 0, self._size)
            (found,) = yield from self._read(("ZRANGEBYSCORE", self._index, self._from, "+inf", *limits))
            members, scores = found[::2], found[1::2]
            keys = _keys_in([member for member in members if member not in self._seen])
            self._is_read = len(members) < self._size
            if members and scores[-1] == self._from:  # there are more of one time than are read at a time
                self._size += PAGE
                self._seen.update(members)
            elif members:
                self._from = scores[-1]
                self._seen = {member for member, score in zip(members, scores, strict=True) if score == self._from}
            if keys:
                return keys
        return []

    def _read(self, *commands: Command) -> Steps[list[Any]]:
        replies: list[Any]
        try:
            replies = yield Read(commands)
        except CacheUnavailable as error:
            if not planted.is_blamed(error):
                raise
            names = [self._directory, self._index]
            if removals := planted.removals(names, (yield Read(planted.look(names)))):
                yield Read(removals)
            replies = yield Read(commands)
        return replies


def _keys_in(members: Sequence[bytes]) -> list[Key]:
    keys: list[Key] = []
    for member in members:
        with suppress(InvalidKey):  # somebody else's
            keys.append(Key.parse(member.decode("ascii", "replace")))
    return keys
