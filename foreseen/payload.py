"""Outputs as they travel back: JSON values, bytes and numpy arrays, in msgpack.

A numpy array is an extension of code 1: dtype name (4 bytes, padded with zeros), number of dimensions (1 byte), sizes
(8 bytes each, big-endian), then the elements in C order, little-endian. Nothing read here can run code.
"""

from __future__ import annotations

import dataclasses
import struct
import sys
from collections.abc import Iterable
from typing import Any, cast

import msgpack
from pydantic_core import PydanticSerializationError, to_jsonable_python

from foreseen.arrays import array_from, array_parts
from foreseen.canonical import MAX_NESTING
from foreseen.errors import MalformedEntry

__all__ = ["ARRAY_CODE", "pack", "unpack"]

ARRAY_CODE = 1

_ARRAY_HEAD = struct.Struct(">4sB")
_NAMES = frozenset({str})
PLAIN = frozenset({type(None), bool, int, float, str, bytes})


class _TooDeep(ValueError):
    """No place in particular is to blame."""


def pack(value: Any) -> bytes:
    """Pack an output.

    Tuples travel as lists, numpy scalars as numbers, pydantic models as their `model_dump()`, dataclasses as dicts, and
    what else pydantic can write as JSON (datetime, Enum, UUID, Decimal, set) as that. Floats stay floats, NaN included.

    Raises:
        TypeError: something cannot travel; the message names its path.
        ValueError: an integer beyond 64 bits, text with a lone surrogate, or too deep a nesting; likewise.
    """
    try:
        return _pack(value)
    except (TypeError, ValueError, OverflowError) as error:
        path, cause = _culprit(value, error)
        kind = TypeError if isinstance(cause, TypeError) else ValueError
        raise kind(f"{path} cannot travel: {cause}") from error


def unpack(data: bytes) -> Any:
    """Unpack what `pack` packed; arrays come writable.

    Raises:
        MalformedEntry: anything else.
        Misconfigured: an array has come and numpy is not installed here.
    """
    try:
        value = msgpack.unpackb(data, ext_hook=_from_extension)
        if type(value) not in PLAIN:
            _check(value, 0)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise MalformedEntry(f"{len(data)} bytes that are not a packed output: {error}") from error
    return value


def _pack(value: Any) -> bytes:
    if type(value) not in PLAIN:
        _check(value, 0)
    return cast("bytes", msgpack.packb(value, default=_to_plain))


def _check(value: Any, depth: int) -> None:
    """Refuse what would not come back as it went: names that are no text, deep nesting, foreign extensions.

    Flat lists and dicts, which most outputs are, are looked through by C code alone.
    """
    kind = type(value)
    if isinstance(value, dict):
        if not {*map(type, value)} <= _NAMES:
            wrong = next(type(name).__name__ for name in value if type(name) is not str)
            raise TypeError(f"a member name of type {wrong}; names must be str")
        items: Iterable[Any] = value.values()
    elif isinstance(value, (list, tuple)):
        if kind is msgpack.ExtType:
            raise TypeError("a msgpack.ExtType; send bytes")
        items = value
    elif kind is msgpack.Timestamp:
        raise TypeError("a msgpack.Timestamp; send a datetime")
    else:
        return
    if depth >= MAX_NESTING:
        raise _TooDeep(f"nested deeper than {MAX_NESTING} levels (or holding itself)")
    if not {*map(type, items)} <= PLAIN:
        for item in items:
            _check(item, depth + 1)


def _to_plain(value: Any) -> Any:
    """Turn what msgpack does not know into what it does."""
    numpy = sys.modules.get("numpy")  # a numpy value can only come from one that is already imported
    if numpy is not None:
        if type(value) in (numpy.ndarray, numpy.memmap):
            dtype, shape, raw = array_parts(value)
            head = _ARRAY_HEAD.pack(dtype.encode(), len(shape)) + struct.pack(f">{len(shape)}Q", *shape)
            return msgpack.ExtType(ARRAY_CODE, head + raw)
        if isinstance(value, numpy.generic) and value.dtype.kind in "biuf":
            plain = value.item()
            return plain if type(plain) in PLAIN else float(value)  # longdouble gives itself
    if isinstance(value, int):
        raise ValueError("an integer beyond 64 bits; send it as a string")  # noqa: TRY004 - its size is wrong, not its type
    if hasattr(value, "model_dump"):
        plain = value.model_dump()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    else:
        try:
            plain = to_jsonable_python(value)
        except PydanticSerializationError as error:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(f"a {kind}; send JSON values, bytes, numpy arrays or pydantic models") from error
    _check(plain, 0)
    return plain


def _from_extension(code: int, data: bytes) -> Any:
    if code != ARRAY_CODE:
        raise ValueError(f"an extension of the unknown code {code}")
    try:
        name, dimensions = _ARRAY_HEAD.unpack_from(data)
        shape = struct.unpack_from(f">{dimensions}Q", data, _ARRAY_HEAD.size)
    except struct.error:
        raise ValueError("an array that ends within its head") from None
    dtype = name.rstrip(b"\0").decode("ascii", "replace")
    return array_from(dtype, shape, data[_ARRAY_HEAD.size + 8 * dimensions :])


def _culprit(value: Any, error: Exception) -> tuple[str, Exception]:
    """Find the innermost item that cannot be packed alone. Only ever called when one cannot, so it may be slow."""
    steps: list[tuple[str, Any]] = []
    if isinstance(error, _TooDeep):
        pass
    elif isinstance(value, dict):
        steps = [(f"[{name!r:.40}]", item) for name, item in value.items()]
    elif isinstance(value, (list, tuple)):
        steps = [(f"[{index}]", item) for index, item in enumerate(value)]
    for step, item in steps:
        try:
            _pack(item)
        except (TypeError, ValueError, OverflowError) as inner:
            path, cause = _culprit(item, inner)
            return f"${step}{path[1:]}", cause
    return "$", error
