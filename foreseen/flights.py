"""The protocol's steps as typed calls: one method for each Lua script, without I/O; a holder's are in `holding`.

A `Call` says which script, which keys and which arguments, and turns the reply into a value. `foreseen.cache` sends any
number of calls in one round trip. What each step guarantees stands at the head of its script. Calls and replies are
named tuples, which cost a third of a frozen dataclass: a hit makes five of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from foreseen.errors import Malformed
from foreseen.keys import BUCKETS, Key, KeySpace, tag_digest
from foreseen.scripts import Script, load
from foreseen.settings import Settings

__all__ = [
    "Call",
    "Due",
    "Flights",
    "Hit",
    "Joined",
    "Kind",
    "Reply",
    "Ticket",
    "Unknown",
    "Watermark",
    "nonce",
    "nonces",
]

T = TypeVar("T")
Argument: TypeAlias = "str | bytes | int | float"

DAY_MS: Final = 86_400_000
#: How long a bucket's generation and counter are kept without a miss, and statistics at all; no entry outlives them.
KEEP_MS: Final = 60 * DAY_MS
#: How long a flight is kept without a sign of life; a queue that is behind by more than this opens its flights anew.
FLIGHT_MS: Final = DAY_MS
#: How long the order mark of an invalidated key is kept; longer than any computation takes.
FENCE_MS: Final = DAY_MS
#: How long a key stays in a tag's index; by a day longer than its entry, since in a day it is registered once.
TAG_MS: Final = KEEP_MS + DAY_MS
#: The hottest keys are those since at most an hour ago: long enough to tell, short enough to be of now.
HOTTEST_MS: Final = 3_600_000
#: Keys that are noted as the hottest of a model: some 2 kB.
MOST_HOTTEST: Final = 64
#: Share of the deployment's lease that the scripts' leases are: who waits has the rest to notice, and to have it begun
#: again, so that a dead worker costs no more than one lease. A look, a message and a begin take some 50 ms.
_SHARE: Final = 0.9
#: A waiter looks again after at most one lease; it counts for this many without a sign of life.
WAITER_LEASES: Final = 3
#: An outcome that is not kept stays readable this many leases: two looks of a waiter, and as many that came late.
OUTCOME_LEASES: Final = 4
#: A push above this carries only the name: a server drops subscribers whose output buffer passes 8 MB for a minute.
PUSH_LIMIT_BYTES: Final = 64 * 1024


def nonce() -> str:
    """Return 64 random bits as 16 hex digits: a token, a holder or an inbox."""
    return os.urandom(8).hex()


def nonces(count: int) -> list[str]:
    """Return so many of them: asking the system once, which is most of what one costs."""
    digits = os.urandom(8 * count).hex()
    return [digits[start : start + 16] for start in range(0, 16 * count, 16)]


class Call(NamedTuple, Generic[T]):
    """One run of a script: what is sent, and how the reply is read.

    Where a call `leads`, those after it in its round trip run after it: sent again, it takes them along. To a
    cluster, they are sent once it was answered.
    """

    script: Script
    keys: tuple[str, ...]
    args: tuple[Argument, ...]
    read: Callable[[Any], T]
    leads: bool = False


class Kind(StrEnum):
    """Who joins: somebody who waits, or a submission that is to be computed whether or not anybody waits."""

    WAITER = "w"
    DETACHED = "d"


class Hit(NamedTuple):
    """There is an entry, or an outcome for those who joined; `entry` is its bytes."""

    entry: bytes


class Joined(NamedTuple):
    """The call's submission is in a flight.

    Attributes:
        led: the call opened it.
        publish: the caller is to send a message for it.
        token: names the flight.
        order: of its opening.
        wait_ms: look again after this.
        now_ms: the server's clock.
        deadline_ms: of the flight, by the server's clock; 0 is none.
        priority: of the flight, 0 to 9.
    """

    led: bool
    publish: bool
    token: str
    order: int
    wait_ms: int
    now_ms: int
    deadline_ms: int
    priority: int


class Due(NamedTuple):
    """There is an entry, which is to be refreshed.

    Attributes:
        entry: its bytes.
        stale: it is past its fresh life.
        refresh: of the flight that refreshes it, if the caller is to send the message; nobody need wait for it.
    """

    entry: bytes
    stale: bool
    refresh: Joined | None = None


class Unknown(NamedTuple):
    """There is neither an entry nor a flight, and the call may not open one."""


Reply: TypeAlias = Hit | Joined | Due | Unknown


class Ticket(NamedTuple):
    """A submission's place in the flights of a key: what `join` and `look` say about it.

    Attributes:
        key: what is asked for.
        inbox: channel to which outcomes are pushed.
        serial: grows with each join of that inbox.
        kind: waiter or detached.
        token: names this call, and goes into the token of the flight should it open one; sent twice, it is known again.
        refresh: compute anew even if there is an entry.
        may_open: open a flight if there is none; False attaches only.
        priority: 0 to 9, 9 first.
        deadline_ms: from now; 0 is none.
        bare: detached, and asked by the model's bare name.
    """

    key: Key
    inbox: str
    serial: int
    kind: Kind
    token: str
    refresh: bool = False
    may_open: bool = True
    priority: int = 4
    deadline_ms: int = 0
    bare: bool = False


class Watermark(NamedTuple):
    """How far a queue has come: sending time of what began last, and when something last began (ms, server's clock)."""

    passed_ms: int = 0
    began_ms: int = 0


def text_of(token: bytes) -> str:
    """Return a token as it stands in a reply."""
    return token.decode("ascii", "replace")  # one that is none of ours is refused by whoever reads the message


def _read_reply(reply: Any) -> Reply:
    if isinstance(reply, bytes):
        return Hit(reply)
    match reply:
        case [1, *told]:
            return _read_joined(told)
        case [2]:
            return Unknown()
        case [3, stale, bytes(entry)]:
            return Due(entry, bool(stale))
        case [3, stale, bytes(entry), 1, *told]:
            return Due(entry, bool(stale), _read_joined(told))
        case _:
            raise Malformed(f"join or look replied {reply!r}")


def _read_joined(told: list[Any]) -> Joined:
    match told:
        case [led, publish, token, order, wait_ms, now_ms, deadline_ms, priority]:
            return Joined(bool(led), bool(publish), text_of(token), order, wait_ms, now_ms, deadline_ms, int(priority))
        case _:
            raise Malformed(f"join or look replied with a flight {told!r}")


def _read_optional(reply: Any) -> bytes | None:
    return reply if isinstance(reply, bytes) else None


def _read_times(reply: Any) -> list[int]:
    if isinstance(reply, list) and all(isinstance(time_ms, int) for time_ms in reply):
        return reply
    raise Malformed(f"tag replied {reply!r}")


def _read_nothing(reply: Any) -> None:
    del reply


class Flights:
    """Builds the calls of one deployment: namespace and durations come from its settings."""

    def __init__(self, settings: Settings) -> None:
        self.space = KeySpace(settings.namespace)
        self.lease_ms = round(_SHARE * settings.lease_ms)
        #: End marks and deaths outlive any redelivery; twice, since the broker's sweep for them is slow.
        self.mark_ms = round(settings.visibility_timeout_s * 2000) + 2 * settings.lease_ms
        self.outcome_ms = OUTCOME_LEASES * settings.lease_ms
        self.waiter_ms = WAITER_LEASES * settings.lease_ms
        self.max_attempts = settings.max_attempts
        self._join = load("join")
        self._fixed = (self.waiter_ms, self.lease_ms, FLIGHT_MS)

    def join(self, ticket: Ticket) -> Call[Reply]:
        """Answer from the entry, or join the flight, or open one."""
        return Call(
            self._join,
            self._bucket(ticket.key),
            ("1" if ticket.refresh else "0", *self._ticket(ticket)),
            _read_reply,
        )

    def look(self, ticket: Ticket, tokens: str, not_before: int, watermark: Watermark) -> Call[Reply]:
        """Look again: the outcome under `tokens` (comma-separated), an entry of order `not_before` on, or join anew."""
        return Call(
            load("look"),
            (*self._bucket(ticket.key), self.space.outcomes(ticket.key), self.space.deaths(ticket.key)),
            (
                not_before, *self._ticket(ticket), tokens, watermark.passed_ms, watermark.began_ms,
                self.mark_ms,
            ),
            _read_reply,
        )  # fmt: skip

    def published(self, key: Key, token: str) -> Call[bool]:
        """Note that a message for the flight `token` is in the broker."""
        return Call(load("published"), (self.space.flight(key),), (token,), bool)

    def leave(self, key: Key, inbox: str, serial: int, kind: Kind) -> Call[bool]:
        """Undo the join `serial`, unless a later one stands; True if that ended the flight."""
        keys = (self.space.flight(key), self.space.ends(key), self.space.statistics(key))
        return Call(load("leave"), keys, (inbox, serial, kind, self.mark_ms, KEEP_MS), bool)

    def peek(self, key: Key) -> Call[bytes | None]:
        """Read the current entry."""
        return Call(load("peek"), (self.space.generation(key), self.space.entry(key)), (), _read_optional)

    def invalidate(self, key: Key) -> Call[bool]:
        """Forget the entry, and let nothing that began before become it; True if there was one."""
        space = self.space
        keys = (space.generation(key), space.clock(key), space.entry(key), space.flight(key), space.invalidated(key))
        return Call(load("invalidate"), keys, (nonce(), KEEP_MS, FENCE_MS), bool)

    def purge(self, model_id: str, bucket: str) -> Call[int]:
        """Replace the generation of one bucket of `model@version`."""
        keys = (self.space.generation_of(model_id, bucket), self.space.clock_of(model_id, bucket))
        return Call(load("purge"), keys, (nonce(), KEEP_MS), int)

    def tag(self, tag: str, keys: Sequence[Key]) -> Call[list[int]]:
        """Register keys under a tag; of each, say from when on its entries count, or minus when it was doubted (ms)."""
        names = (self.space.tag_directory(tag), self.space.tag_index(tag))
        args = (tag_digest(tag), ",".join(map(str, keys)), TAG_MS, DAY_MS)
        return Call(load("tag"), names, args, _read_times, leads=True)

    def settle(self, tag: str, doubts: Mapping[Key, int]) -> Call[None]:
        """End the doubt on keys of a tag; `doubts` are the times that `tag` has told."""
        packed = ",".join(f"{key}={since_ms}" for key, since_ms in doubts.items())
        return Call(load("settle"), (self.space.tag_index(tag),), (packed,), _read_nothing)

    def tally(
        self, model_id: str, hit: int, near: int, saved_us: int, keys: Mapping[str, int], unreadable: int = 0
    ) -> Call[None]:
        """Add hits of `model@version` to its statistics, those of the near cache, and what all of them saved.

        `keys` are the hits of some keys, by the first digits of their digests; `unreadable`, entries that were none.
        """
        names = (self.space.statistics_of(model_id, BUCKETS[0]), self.space.hottest_of(model_id))
        noted = ",".join(f"{digits}:{hits}" for digits, hits in keys.items())
        args = (hit, near, saved_us, KEEP_MS, HOTTEST_MS, MOST_HOTTEST, noted, unreadable)
        return Call(load("tally"), names, args, _read_nothing)

    def measure(self, model_id: str, fields: Mapping[str, int]) -> Call[None]:
        """Add to the measures of `model@version`, by field (`foreseen.measures`)."""
        measured = ",".join(f"{field}={count}" for field, count in fields.items())
        return Call(load("measure"), (self.space.measures_of(model_id),), (KEEP_MS, measured), _read_nothing)

    def promote(self, model: str, version: str) -> Call[bytes | None]:
        """Make a version the one that the bare name means; tells which it was.

        It stands: a heartbeat sets the pointer only if it is missing, and then to what it read there last.
        """
        return Call(
            load("promote"), (self.space.current(model), self.space.previous(model)), (version, KEEP_MS), _read_optional
        )

    def _bucket(self, key: Key) -> tuple[str, ...]:
        return self.space.bucket(key)

    def _ticket(self, ticket: Ticket) -> tuple[Argument, ...]:
        return (
            "1" if ticket.may_open else "0", KEEP_MS, ticket.token, ticket.inbox, ticket.serial, ticket.kind,
            *self._fixed, ticket.priority, ticket.deadline_ms, "1" if ticket.bare else "0",
        )  # fmt: skip
