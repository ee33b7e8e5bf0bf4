"""A look over a message's body before anything is built of it.

One byte of msgpack can stand for an empty list, which takes sixty in memory; so a body within its bounds could still
take sixty times as much. What is of the right form takes hardly more memory than bytes.
"""

from __future__ import annotations

from typing import Final

import msgpack

from foreseen.errors import MalformedMessage

__all__ = ["skim"]

#: Elements of a message's arguments, of an item, of what Celery embeds: a few more than there are, for later releases.
_MAX_FIELDS: Final = 16
#: A text names each of its blobs by 64 digits.
_DIGITS_OF_BLOB: Final = 64
_NIL: Final = 0xC0
_FIELD, _ARRAY, _MAP = range(3)
#: What a value is, by its first byte: msgpack's arrays, its maps, or a value that holds no others.
_KINDS: Final = bytes(
    _ARRAY
    if first in {*range(0x90, 0xA0), 0xDC, 0xDD}
    else _MAP
    if first in {*range(0x80, 0x90), 0xDE, 0xDF}
    else _FIELD
    for first in range(256)
)


def skim(body: bytes, max_items: int) -> None:
    """Look whether a body is `[[field, …, [[field, …, [blob, …]], …], …], {}, {…}]`, fields being no lists or maps.

    Raises:
        MalformedMessage: it is not, or has more than `max_items` items, or ends early.
    """
    try:
        _Skimmer(body).message(max_items)
    except (ValueError, IndexError, msgpack.UnpackException) as error:  # what ends early, or is no msgpack at all
        raise MalformedMessage(f"its body is not of the form of a message: {type(error).__name__}") from None


class _Skimmer:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self._unpacker = msgpack.Unpacker(max_buffer_size=max(1, len(body)))
        self._unpacker.feed(body)

    def message(self, max_items: int) -> None:
        self._demand(self._unpacker.read_array_header() == 3)  # noqa: PLR2004 - arguments, keywords, what is embedded
        for _ in range(self._count(_MAX_FIELDS)):
            if self._is_array():
                for _ in range(self._count(max_items)):
                    self._item()
            else:
                self._field()
        for _ in range(2):
            if self._body[self._unpacker.tell()] == _NIL:
                self._unpacker.skip()
                continue
            n_pairs = self._unpacker.read_map_header()
            self._demand(n_pairs <= _MAX_FIELDS)
            for _ in range(2 * n_pairs):
                self._field()
        self._demand(self._unpacker.tell() == len(self._body))

    def _item(self) -> None:
        body, tell, skip = self._body, self._unpacker.tell, self._unpacker.skip  # here nearly all of the time goes
        n_fields = self._count(_MAX_FIELDS)
        longest, at = 0, tell()
        for _ in range(n_fields):
            kind = _KINDS[body[at]]
            if kind == _FIELD:
                skip()
                end = tell()
                longest = max(longest, end - at)
            else:
                self._demand(kind == _ARRAY)
                for _ in range(self._count(longest // _DIGITS_OF_BLOB)):
                    self._field()
                end = tell()
            at = end

    def _count(self, most: int) -> int:
        count: int = self._unpacker.read_array_header()
        self._demand(count <= most)
        return count

    def _field(self) -> None:
        """Pass over a value that holds no others."""
        self._demand(_KINDS[self._body[self._unpacker.tell()]] == _FIELD)
        self._unpacker.skip()

    def _is_array(self) -> bool:
        is_array: bool = _KINDS[self._body[self._unpacker.tell()]] == _ARRAY
        return is_array

    @staticmethod
    def _demand(holds: bool) -> None:  # noqa: FBT001 - it is the one argument
        if not holds:
            raise ValueError
