"""Entries: what the cache keeps for a key, and what is pushed to those who wait.

    layout  kind  codec  generation  order  written_ms  fresh_until_ms  cost_us  crc32 | payload
      1      1      1        8         8        8             8            4       4   |  bytes, big-endian

Layout 2, of an entry that is refreshed before it expires, has two more fields before the checksum: `early_ms`, 4 bytes,
and `held_until_ms`, 8.

A script on the server puts all up to the checksum in front, since only the server knows the clock and the order; the
worker sends the body, which is the rest. The checksum is over the payload: a torn value is a miss, never an answer.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from foreseen.compression import inflate
from foreseen.errors import MalformedEntry, PredictionFailed
from foreseen.outcome import Failure, Result
from foreseen.payload import pack, unpack

if TYPE_CHECKING:
    from foreseen.outcome import Outcome

__all__ = [
    "CODEC",
    "COMPRESSED_CODEC",
    "HEADER_BYTES",
    "LARGEST_HEADER_BYTES",
    "LAYOUT",
    "REFRESHED_LAYOUT",
    "Entry",
    "Kind",
    "Refreshing",
    "cost_us_in",
    "encode_body",
    "failure_body",
    "outcome_in",
    "payload_of",
    "result_body",
    "written_ms_in",
]

LAYOUT = 1
REFRESHED_LAYOUT = 2
CODEC = 1
"""The payload is msgpack, as `foreseen.payload` writes it."""
COMPRESSED_CODEC = 2
"""It is that, compressed by `foreseen.compression`."""

_CODECS = (CODEC, COMPRESSED_CODEC)
_HEADER = struct.Struct(">BBB8sQQQII")
_REFRESHED_HEADER = struct.Struct(">BBB8sQQQIIQI")
_CHECKSUM = struct.Struct(">I")
#: Where `written_ms` and `cost_us` stand.
_WRITTEN = slice(19, 27)
_COST, _COST_AT = struct.Struct(">I"), 35
HEADER_BYTES = _HEADER.size
#: What tells nearly all entries: how the header begins, of a result as it is; the checksum, at its end.
_ENDS = struct.Struct(f">3s{HEADER_BYTES - 3 - _CHECKSUM.size}xI")
LARGEST_HEADER_BYTES = _REFRESHED_HEADER.size


class Kind(IntEnum):
    """What an entry holds."""

    RESULT = ord("R")
    FAILURE = ord("F")


_AS_IT_IS = bytes((LAYOUT, Kind.RESULT, CODEC))
_KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}  # a tenth of the cost of Kind(number)


class Refreshing(NamedTuple):
    """When an entry is refreshed before it expires.

    Attributes:
        early_ms: how early that may be, on the scale of the XFetch rule.
        held_until_ms: no refresh before, since one has failed; in ms since 1970 by the server's clock.
    """

    early_ms: int
    held_until_ms: int


class Entry(NamedTuple):
    """An entry, its header read and its payload checked, but not yet unpacked.

    Attributes:
        kind: a result or a failure.
        generation: the 8 bytes of the generation it belongs to; of another one it is a miss.
        order: the bucket's counter when its computation began.
        written_ms: when it was written, in ms since 1970 by the server's clock.
        fresh_until_ms: when it turns stale, likewise.
        cost_us: what its computation cost, per item, in microseconds; at most 2^32-1, which is 71 minutes.
        payload: what `foreseen.payload` packed.
        refreshing: None if it expires without.
        codec: of the payload.
    """

    kind: Kind
    generation: bytes
    order: int
    written_ms: int
    fresh_until_ms: int
    cost_us: int
    payload: bytes
    refreshing: Refreshing | None = None
    codec: int = CODEC

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """Read an entry.

        Raises:
            MalformedEntry: too short, of another layout, kind or codec, or torn. The reader treats it as a miss.
        """
        kind, generation, order, written_ms, fresh_until_ms, cost_us, payload, codec = _read(data)
        read = (kind, generation, order, written_ms, fresh_until_ms, cost_us, payload)
        if data[0] == LAYOUT:
            return cls(*read, None, codec)
        *_, early_ms, held_until_ms, _ = _REFRESHED_HEADER.unpack_from(data)
        return cls(*read, Refreshing(early_ms, held_until_ms), codec)

    def encode(self) -> bytes:
        """Write the entry as the server's script does; for tests and tools."""
        told = (
            self.kind, self.codec, self.generation, self.order, self.written_ms, self.fresh_until_ms, self.cost_us,
        )  # fmt: skip
        if self.refreshing is not None:
            header = _REFRESHED_HEADER.pack(REFRESHED_LAYOUT, *told, *self.refreshing, crc32(self.payload))
            return header + self.payload
        return _HEADER.pack(LAYOUT, *told, crc32(self.payload)) + self.payload

    def plain(self, max_bytes: int) -> Entry:
        """Return the entry with its payload not compressed; `max_bytes` is the largest that it may become.

        Raises:
            MalformedEntry: it would be larger, or is not what its codec says.
            Misconfigured: it is compressed, and zstandard is not installed here.
        """
        if self.codec == CODEC:
            return self
        return self._replace(payload=inflate(self.payload, max_bytes), codec=CODEC)

    def outcome(self) -> Outcome:
        """Unpack the payload, which is `plain`.

        Raises:
            MalformedEntry: the payload is not what its kind says.
        """
        return _unpacked(self.kind, self.payload)


def outcome_in(data: bytes, max_bytes: int) -> Outcome:
    """Return `Entry.decode(data).plain(max_bytes).outcome()`, without making the entry: every hit pays for this.

    Raises:
        MalformedEntry: as those do.
    """
    if len(data) >= HEADER_BYTES:
        begins, checksum = _ENDS.unpack_from(data)
        if begins == _AS_IT_IS:
            payload = data[HEADER_BYTES:]
            if crc32(payload) == checksum:
                return Result(unpack(payload))
    kind, _, _, _, _, _, payload, codec = _read(data)
    if codec != CODEC:
        payload = inflate(payload, max_bytes)
    return Result(unpack(payload)) if kind is Kind.RESULT else _unpacked(kind, payload)


def cost_us_in(data: bytes) -> int:
    """Return what the computation of an entry that can be read cost, in either layout."""
    cost_us: int = _COST.unpack_from(data, _COST_AT)[0]
    return cost_us


def written_ms_in(data: bytes) -> int:
    """Return when an entry that can be read was written, in either layout."""
    return int.from_bytes(data[_WRITTEN], "big")


def _read(data: bytes) -> tuple[Kind, bytes, int, int, int, int, bytes, int]:
    if len(data) < HEADER_BYTES:
        raise MalformedEntry(f"{len(data)} bytes, fewer than the {HEADER_BYTES} of a header")
    layout, number, codec, generation, order, written_ms, fresh_until_ms, cost_us, crc = _HEADER.unpack_from(data)
    kind = _KINDS.get(number)
    if layout != LAYOUT or codec not in _CODECS or kind is None:
        if layout == REFRESHED_LAYOUT:
            return _read(_without_refreshing(data))
        raise MalformedEntry(f"layout {layout}, kind {number}, codec {codec} are not ({LAYOUT}, R or F, {_CODECS})")
    payload = data[HEADER_BYTES:]
    if crc32(payload) != crc:
        raise MalformedEntry(f"the checksum of its {len(payload)} bytes is wrong")
    return kind, generation, order, written_ms, fresh_until_ms, cost_us, payload, codec


def _without_refreshing(data: bytes) -> bytes:
    """Return an entry of the longer layout in the other one."""
    size = _REFRESHED_HEADER.size
    if len(data) < size:
        raise MalformedEntry(f"{len(data)} bytes, fewer than the {size} of a header")
    return bytes((LAYOUT,)) + data[1 : HEADER_BYTES - _CHECKSUM.size] + data[size - _CHECKSUM.size :]


def _unpacked(kind: Kind, payload: bytes) -> Outcome:
    value = unpack(payload)
    if kind is Kind.RESULT:
        return Result(value)
    if not isinstance(value, Mapping):
        raise MalformedEntry("a failure that is not an object")
    return Failure(PredictionFailed.from_wire(value))


def encode_body(payload: bytes) -> bytes:
    """Return the body of an entry: checksum and payload; the script puts the rest of the header in front."""
    return _CHECKSUM.pack(crc32(payload)) + payload


def payload_of(body: bytes) -> bytes:
    """Return the payload of an entry's body."""
    return body[_CHECKSUM.size :]


def result_body(value: Any) -> bytes:
    """Return the body for a result.

    Raises:
        TypeError: the value cannot travel; the message names the path.
        ValueError: likewise.
    """
    return encode_body(pack(value))


def failure_body(failure: PredictionFailed) -> bytes:
    """Return the body for a failure. Never raises: a failure that could not be told would leave its waiters waiting."""
    wire: dict[str, Any] = failure.to_wire()
    try:
        return encode_body(pack(wire))
    except (TypeError, ValueError):  # details that cannot travel, or a message with a lone surrogate
        message = failure.message.encode("utf-8", "backslashreplace").decode()
        return encode_body(pack({"name": wire["name"], "message": message, "details": {}}))
