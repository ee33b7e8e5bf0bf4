"""Mutations of bytes and of values, drawn from a seed, so that what went wrong once goes wrong again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import msgpack

__all__ = ["Mutator", "nested"]


def nested(depth: int) -> list[Any]:
    """Return lists within lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


#: What stands in the place of a right value. None of it is larger than a message could be.
_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 9, 10, 255, 2**31, 2**53 - 1, 2**53, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 1.5,
    float("nan"), float("inf"), 1e308, "", "x", "0" * 16, "f" * 40, "slow@1", "slow@1}:x{", "../../x", "\0", "\n", "é",
    "$bytes", "__import__('os')", b"", b"\0", b"\xff" * 8, b"{}", b"[", b'{"$bytes":""}', b"x" * 300, [], [[]], {},
    {"": ""}, {"$bytes": "00"}, {"$array": {"dtype": "<f4", "sha256": "00", "shape": [2**62, 2**62]}}, {"name": 1},
    {"details": [1]}, nested(120), msgpack.ExtType(1, b""), msgpack.ExtType(1, b"<f4\0\x02" + b"\xff" * 16),
    msgpack.ExtType(5, b"x"), msgpack.Timestamp(0),
)  # fmt: skip
#: Bytes that mean something: to msgpack declared lengths of 4 GiB, to JSON brackets, to a struct extremes.
_PIECES: Final = (
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01", b"\xc1", b"\xcf" + b"\xff" * 8, b"\x91" * 64, b"[" * 64, b'{"a":' * 32, b"\0" * 8,
    b"\xff" * 8, b"\x80\x04\x95", b"\n", b" ", b",", b"1e400", b"NaN", b'"\\ud800"', b"\xed\xa0\x80",
)  # fmt: skip


class Mutator:
    """Draws mutations.

    Args:
        seed: equal seeds draw equal mutations.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def raw(self, data: bytes) -> bytes:
        """Return bytes changed in one to four places."""
        draw = self._random
        mutated = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(mutated) + 1)
            match draw.randrange(6):
                case 0 if at < len(mutated):
                    mutated[at] ^= 1 << draw.randrange(8)
                case 1 if at < len(mutated):
                    mutated[at] = draw.randrange(256)
                case 2:
                    del mutated[at:]
                case 3:
                    del mutated[at : at + draw.randint(1, 8)]
                case 4:
                    mutated[at:at] = draw.choice(_PIECES)
                case _:
                    end = draw.randrange(len(mutated) + 1)
                    mutated[at:at] = mutated[min(at, end) : max(at, end)][:64]
        return bytes(mutated)

    def value(self, value: Any) -> Any:
        """Return a copy of a value of lists, dicts and plain values, changed in one to three places."""
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            value = self._changed(value)
        return value

    def choice(self, of: tuple[Any, ...]) -> Any:
        """Return one of them."""
        return self._random.choice(of)

    def _changed(self, value: Any) -> Any:
        draw = self._random
        inside: list[Callable[[], Any]] = []
        if isinstance(value, list) and value:
            at = draw.randrange(len(value))
            inside += [
                lambda: [*value[:at], self._changed(value[at]), *value[at + 1 :]],
                lambda: [*value[:at], self._changed(value[at]), *value[at + 1 :]],
                lambda: [*value[:at], *value[at + 1 :]],
                lambda: [*value[:at], value[at], *value[at:]],
                lambda: [*value[:at], draw.choice(_VALUES), *value[at:]],
            ]
        elif isinstance(value, dict) and value:
            name = draw.choice(sorted(value, key=str))
            inside += [
                lambda: {**value, name: self._changed(value[name])},
                lambda: {**value, name: self._changed(value[name])},
                lambda: {each: value[each] for each in value if each != name},
                lambda: {**value, draw.choice(("x", "$bytes", "$array", "")): draw.choice(_VALUES)},
            ]
        elif isinstance(value, bytes):
            inside += [lambda: self.raw(value)] * 2
        elif isinstance(value, str):
            inside += [lambda: self.raw(value.encode(errors="replace")).decode(errors="replace")]
        elif type(value) is int:
            inside += [lambda: value + draw.choice((-1, 1, 2**32, 2**53, -(2**53)))]
        inside.append(lambda: draw.choice(_VALUES))
        return draw.choice(inside)()
