"""Statistics: what the scripts and the producers counted, read back; and what the cache server says of its own memory.

Each bucket of a model counts in a hash of its own. The counts are lost with the cache's data, and 60 days after the
first of them. A look-up that finds a fresh entry writes nothing: producers count those, and add them to the first
bucket's every other second. A producer that dies takes as much with it; what is sent again, since its reply was lost,
counts twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from foreseen.keys import BUCKETS, KeySpace
from foreseen.parcels import Command

__all__ = [
    "Counts",
    "ServerMemory",
    "count_in",
    "parse",
    "parse_hottest",
    "parse_server",
    "read",
    "read_hottest",
    "read_server",
]


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened to one version of a model. The fields are the names under which the scripts count.

    Attributes:
        opened: submissions that found no entry and no flight, and opened one.
        joined: submissions that joined a flight under way.
        begun: computations that a worker began.
        computed: results.
        failed: failures.
        lapsed: flights taken over because their holder gave no sign of life.
        unwanted: flights dropped because nobody waited any more.
        refused: outcomes that the server did not keep, for want of memory.
        unkept: results that were told and not to be kept: their model says so, or they are too large.
        stale: submissions that were answered past an entry's fresh life.
        refreshed: computations begun behind an entry that still answered.
        rejected: messages that a worker dropped, since they are none of ours.
        hit: look-ups that a fresh entry answered; of inputs that repeat within one call, the first alone.
        near: likewise, in a producer's own memory.
        spent_us: what the computations of results and failures cost.
        saved_us: what the computations had cost of which an entry answered, fresh or stale.
        unreadable: entries that were torn, foreign, or of another release's layout: a miss each.
        audited: hits that were computed again, and compared with their entries.
        differed: of these, those whose entry was another than what was computed.
    """

    opened: int = 0
    joined: int = 0
    begun: int = 0
    computed: int = 0
    failed: int = 0
    lapsed: int = 0
    unwanted: int = 0
    refused: int = 0
    unkept: int = 0
    stale: int = 0
    refreshed: int = 0
    rejected: int = 0
    hit: int = 0
    near: int = 0
    spent_us: int = 0
    saved_us: int = 0
    unreadable: int = 0
    audited: int = 0
    differed: int = 0

    @property
    def hit_share(self) -> float | None:
        """The part of the look-ups that an entry answered; None if there were none."""
        return _share(self.hit + self.near + self.stale, self.opened + self.joined)

    @property
    def coalesced_share(self) -> float | None:
        """The part of the submissions without an entry that joined a flight; None if there were none."""
        return _share(self.joined, self.opened)

    @property
    def failed_share(self) -> float | None:
        """The part of the outcomes that are failures; None if there were none."""
        return _share(self.failed, self.computed)


#: Of a count; what is longer no script has counted.
_DIGITS: Final = 18
#: How a key is noted among the hottest; what is longer could not be shown to everybody.
_SHORT: Final = re.compile(rb"[0-9a-f]{8}")
EVENTS: Final = tuple(field.name for field in fields(Counts))


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """The cache server's memory, or a cluster's, for all that it keeps, foreseen's or not. None where it does not say.

    Attributes:
        used_bytes: in use.
        max_bytes: where it begins to evict, or to refuse; 0 is no bound.
        policy: what it does then, such as `allkeys-lru`.
        evicted: keys evicted since it started.
    """

    used_bytes: int | None
    max_bytes: int | None
    policy: str | None
    evicted: int | None


def read(space: KeySpace, model_id: str) -> list[Command]:
    """Return the commands that read the counts of `model@version`, one for each bucket: one round trip."""
    return [("HMGET", space.statistics_of(model_id, bucket), *EVENTS) for bucket in BUCKETS]


def parse(replies: Iterable[Sequence[bytes | None]]) -> Counts:
    """Sum up the buckets' replies."""
    return Counts(*(sum(map(count_in, column)) for column in zip(*replies, strict=True)))


def read_hottest(space: KeySpace, model_id: str) -> list[Command]:
    """Return the command that reads which keys of `model@version` were hit most, within the last hour at most."""
    return [("HGETALL", space.hottest_of(model_id))]


def parse_hottest(replies: Sequence[Sequence[bytes]]) -> dict[str, int]:
    """Return about how often each was hit, the hottest first, by the first digits of their digests."""
    (flat,) = replies
    noted = zip(flat[::2], flat[1::2], strict=True)
    hottest = ((digits.decode(), count_in(hits)) for digits, hits in noted if _SHORT.fullmatch(digits))
    return dict(sorted(hottest, key=lambda each: (-each[1], each[0])))


def read_server() -> list[Command]:
    """Return the commands that ask the server about itself."""
    return [("INFO", "memory"), ("INFO", "stats")]


def parse_server(told: Iterable[Sequence[bytes]]) -> ServerMemory:
    """Read what each server said: of a cluster's masters the sums."""
    servers = [_memory_of(replies) for replies in told]
    policies = dict.fromkeys(each.policy for each in servers)
    return ServerMemory(
        _sum(each.used_bytes for each in servers),
        _sum(each.max_bytes for each in servers),
        None if None in policies else ", ".join(filter(None, policies)),
        _sum(each.evicted for each in servers),
    )


def _memory_of(replies: Iterable[bytes]) -> ServerMemory:
    lines = [line.partition(":") for reply in replies for line in reply.decode(errors="replace").splitlines()]
    told = {name: value.strip() for name, colon, value in lines if colon}
    return ServerMemory(
        _told_number(told, "used_memory"),
        _told_number(told, "maxmemory"),
        told.get("maxmemory_policy"),
        _told_number(told, "evicted_keys"),
    )


def _sum(numbers: Iterable[int | None]) -> int | None:
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def count_in(count: bytes | None) -> int:
    """Return the number in a reply, 0 if it is missing or is none."""
    return int(count) if count is not None and count.isdigit() and len(count) <= _DIGITS else 0


def _told_number(told: dict[str, Any], name: str) -> int | None:
    value = told.get(name, "")
    return int(value) if value.isdecimal() else None


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None
