"""A holder's steps as typed calls: what a worker says of the flights that it runs.

Apart from `foreseen.flights`, since a producer never takes them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple

from foreseen.entry import CODEC
from foreseen.errors import Malformed
from foreseen.flights import FLIGHT_MS, KEEP_MS, PUSH_LIMIT_BYTES, Call, Flights, text_of
from foreseen.keys import Key
from foreseen.scripts import load

__all__ = ["Alone", "Begin", "Begun", "Finish", "Finished", "HolderFlights"]

_MAX_DEATH_CHARACTERS: Final = 200


class Begin(IntEnum):
    """What a worker is to do with an item."""

    SETTLED = 0  # nothing: it is done, unwanted, ended, or another message stands for it
    RUN = 1
    HELD = 2  # a live holder runs it: send a copy due when its lease ends
    EXPIRED = 3  # its deadline passed: finish it with that failure
    EXHAUSTED = 4  # its process died too often: finish it with that failure
    ALONE = 5  # it was in a batch whose process died: send it in a message of its own
    ISOLATE = 6  # it was in a worker that died: begin again once nothing else is computed there


class Alone(IntEnum):
    """How alone an item is computed; a death counts against an input only if it was alone in what died."""

    NO = 0
    IN_PROCESS = 1
    IN_WORKER = 2


class Begun(NamedTuple):
    """The reply to `begin`.

    `generation` and `order` are what `finish` must be told, `deaths` why it is exhausted; `deadline_left_ms` is 0
    if there is none.
    """

    code: Begin
    token: str = ""
    generation: bytes = b""
    order: int = 0
    lease_left_ms: int = 0
    deadline_left_ms: int = 0
    deaths: int = 0
    last_death: str = ""


class Finish(IntEnum):
    """What became of an outcome."""

    SETTLED = 0  # nothing changed: another outcome stands
    KEPT = 1  # it is the entry, and everyone who joined was told
    TOLD = 2  # everyone who joined was told; it is not kept
    HELD = 3  # another holder runs the flight: send a copy due when its lease ends
    RESEND = 4  # a newer flight has no message yet, or the cache lost the flight: send this one again
    BARE = 5  # somebody asked by the bare name: have the current version compute it, before the others are told


class Finished(NamedTuple):
    """The reply to `finish`."""

    code: Finish
    token: str = ""
    lease_left_ms: int = 0


def _read_begun(reply: Any) -> Begun:
    match reply:
        case [0 | 5 | 6 as code]:
            return Begun(Begin(code))
        case [2, lease_left_ms, token]:
            return Begun(Begin.HELD, text_of(token), lease_left_ms=lease_left_ms)
        case [1, token, generation, order, deadline_left_ms]:
            return Begun(Begin.RUN, text_of(token), generation, order, deadline_left_ms=deadline_left_ms)
        case [3, token, generation, order]:
            return Begun(Begin.EXPIRED, text_of(token), generation, order)
        case [4, token, generation, order, deaths, last]:
            last = (last or b"").decode(errors="replace")
            return Begun(Begin.EXHAUSTED, text_of(token), generation, order, deaths=deaths, last_death=last)
        case _:
            raise Malformed(f"begin replied {reply!r}")


def _read_finished(reply: Any) -> Finished:
    match reply:
        case [3, lease_left_ms, token]:
            return Finished(Finish.HELD, text_of(token), lease_left_ms)
        case [0 | 1 | 2 | 4 | 5 as code]:
            return Finished(Finish(code))
        case _:
            raise Malformed(f"finish replied {reply!r}")


class HolderFlights(Flights):
    """Builds the calls of one deployment, those of who runs flights among them."""

    def begin(
        self,
        key: Key,
        token: str,
        opened: int,
        deadline_ms: int,
        priority: int,
        holder: str,
        delivery: str,
        *,
        alone: Alone,
        copies: int = 0,
        worker: str = "",
    ) -> Call[Begun]:
        """Take an item's flight to compute it, or learn why not.

        `worker` is the channel that the holder's worker listens to: its silence tells a death from a stop.
        """
        return Call(
            load("begin"),
            self.space.computation(key)[:-1],
            (
                str(key), token, opened, deadline_ms, priority, holder, delivery, int(alone),
                self.lease_ms, FLIGHT_MS, KEEP_MS, self.mark_ms, PUSH_LIMIT_BYTES, self.max_attempts,
                copies, worker,
            ),
            _read_begun,
        )  # fmt: skip

    def finish(
        self,
        key: Key,
        begun: Begun,
        holder: str,
        delivery: str,
        *,
        success: bool,
        body: bytes,
        expiry_ms: int,
        cost_us: int,
        copies: int = 0,
        stale_ms: int = 0,
        early_ms: int = 0,
        codec: int = CODEC,
        trace: str = "",
        named: bool = False,
    ) -> Call[Finished]:
        """Keep an outcome (`body`: checksum and payload) for `expiry_ms`, 0 = not at all; tell everyone who joined.

        For `stale_ms` more it answers while it is refreshed; `early_ms`, how early that may begin, is the scale of the
        XFetch rule: what a computation takes, times its beta. `trace`, the computation's, is told with the outcome.
        `named`: it is for those alone who named the version.
        """
        return Call(
            load("finish"),
            self.space.computation(key),
            (
                f"{trace};{key}" if trace else str(key), "R" if success else "F", holder, begun.generation, begun.order,
                body, expiry_ms, cost_us, delivery, self.mark_ms, self.outcome_ms, PUSH_LIMIT_BYTES, KEEP_MS,
                begun.token, copies, stale_ms, early_ms, codec, int(named),
            ),
            _read_finished,
        )  # fmt: skip

    def renew(self, key: Key, holder: str, *, waits: bool = False) -> Call[bool]:
        """Extend the lease of a running flight; False if it is no longer this holder's.

        From one who `waits` for other predictions on, its worker's death is not put down to the input.
        """
        args = (holder, self.lease_ms, FLIGHT_MS, int(waits))
        return Call(load("renew"), (self.space.flight(key),), args, bool)

    def give_up(self, key: Key, holder: str, *, died: str | None) -> Call[bool]:
        """Hand a flight back: its process shuts down, or `died`, which says how, for people."""
        keys = (self.space.flight(key), self.space.deaths(key))
        args = (holder, int(died is not None), (died or "")[:_MAX_DEATH_CHARACTERS], self.mark_ms)
        return Call(load("give_up"), keys, args, bool)

    def wanted(self, key: Key, holder: str) -> Call[bool]:
        """Tell whether anybody wants what this holder computes."""
        return Call(load("wanted"), (self.space.flight(key),), (holder,), bool)

    def copied(self, key: Key, token: str, copy: str, copies: int, own: str) -> Call[bool]:
        """Remember that the message `copy`, of that number and sent for `own`, stands in where one met `token`."""
        return Call(load("copied"), (self.space.flight(key),), (token, copy, copies, own), bool)

    def raise_watermark(self, queue: str, priority: int, sent_ms: int) -> Call[int]:
        """Note that a message sent at `sent_ms` was taken up; return how long ago that is, in milliseconds."""
        return Call(load("watermark"), (self.space.watermark(queue, priority),), (sent_ms, FLIGHT_MS), int)
