"""The canonical form of an input: equal forms give equal keys, and a model is given what the form says.

The form is JSON after RFC 8785 (JSON Canonicalization Scheme). What JSON lacks stands in it as a leaf that names the
SHA-256 of its raw bytes, which travel beside the text as blobs:

    bytes          {"$bytes": "<hex>"}
    numpy array    {"$array": {"dtype": "<f4", "sha256": "<hex>", "shape": [2, 3]}}     C order, little-endian

A member name of the user's that starts with `$` gets one more `$`, so that it can never be taken for a leaf.

Two rules a caller may notice: `1` and `1.0` are one number, and text is taken as it is, without Unicode normalisation.
Numbers inside an array are bytes, not JSON numbers: there dtype, `-0.0` and NaN all count.

The ways in (`canonicalize`) and out (`restore`) stand in this one module, since each must undo the other.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from hashlib import sha256
from json.encoder import encode_basestring  # escapes exactly what RFC 8785 section 3.2.2.2 escapes; a test compares
from typing import Any, NamedTuple, NoReturn, TypeAlias

from foreseen.arrays import array_from, array_parts
from foreseen.errors import InvalidInput, MalformedMessage

__all__ = ["MAX_NESTING", "CanonicalInput", "canonicalize", "restore"]

MAX_NESTING = 100
"""Levels of lists and objects; far above real inputs, far below Python's recursion limit of 1000."""

MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader holds exactly (RFC 7493 section 2.2, which RFC 8785 builds on)."""

_PLAIN_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_LEAF_OF_BYTES, _LEAF_OF_ARRAY = "$bytes", "$array"
_ARRAY_MEMBERS = {"dtype", "sha256", "shape"}
_STRINGS = frozenset({str})
_Put: TypeAlias = Callable[[str], None]


class CanonicalInput(NamedTuple):
    """An input in canonical form.

    Attributes:
        text: UTF-8 JSON after RFC 8785; the key is taken over it alone, since it names the blobs by their digests.
        blobs: raw bytes of the leaves that JSON cannot hold, each once, in the order in which `text` first names them.
    """

    text: bytes
    blobs: tuple[bytes, ...] = ()


class _Refusal(Exception):
    """What does not fit, and the way to it, gathered from the inside out."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.steps: list[str | int] = []

    def told(self) -> str:
        """Return path and reason, as in `$.user.ages[3] is NaN; ...`."""
        path = "$"
        for step in reversed(self.steps):
            if isinstance(step, int):
                path += f"[{step}]"
            elif re.fullmatch(_PLAIN_NAME, step):
                path += f".{step[:40]}"
            else:
                path += f"[{json.dumps(step[:40])}]"
        return f"{path} {self.why}"


def canonicalize(value: Any) -> CanonicalInput:
    """Bring an input into its canonical form (RFC 8785).

    Args:
        value: JSON values, bytes-likes, numpy arrays and scalars, pydantic models (by `model_dump` in JSON mode, under
            their aliases, since that is what validation takes), in any nesting of lists, tuples and dicts.

    Returns:
        The form; equal for two inputs exactly if a model is given equal inputs for them.

    Raises:
        InvalidInput: something cannot be canonical; the message names its path and what would fit. A retry cannot help.
    """
    kind = type(value)
    if kind is bytes:  # the two inputs that most models take need no list of pieces
        return CanonicalInput(f'{{"$bytes":"{sha256(value).hexdigest()}"}}'.encode(), (value,))
    if kind is str and value.isascii():
        return CanonicalInput(encode_basestring(value).encode())
    pieces: list[str] = []
    blobs: dict[str, bytes] = {}
    try:
        _emit(value, pieces.append, blobs, 0)
    except _Refusal as refusal:
        raise InvalidInput(refusal.told()) from refusal.__cause__
    return CanonicalInput("".join(pieces).encode(), tuple(blobs.values()))


def _emit(value: Any, put: _Put, blobs: dict[str, bytes], depth: int) -> None:
    """Put the pieces of one value. Exact types first: they are nearly all there is, and the way of every cache hit."""
    kind = type(value)
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        put(scalar(value))
    elif kind is dict:
        _emit_object(value, put, blobs, depth + 1)
    elif kind is list or kind is tuple:
        _emit_list(value, put, blobs, depth + 1)
    elif kind is bytes:
        put(_bytes_leaf(value, blobs))
    else:
        _emit_other(value, put, blobs, depth)


def _emit_object(value: dict[Any, Any], put: _Put, blobs: dict[str, bytes], depth: int) -> None:
    if depth > MAX_NESTING:
        _refuse_nesting()
    names = _sorted_names(value)
    name, before = "", "{"
    try:
        for name in names:
            item = value[name]
            label = encode_basestring("$" + name if name[:1] == "$" else name)
            scalar = _SCALARS.get(type(item))
            if scalar is not None:  # without a call and a piece of its own: a third of the time of a flat object
                put(f"{before}{label}:{scalar(item)}")
            else:
                put(f"{before}{label}:")
                _emit(item, put, blobs, depth)
            before = ","
    except _Refusal as refusal:
        refusal.steps.append(name)
        raise
    put("}" if names else "{}")


def _sorted_names(value: dict[Any, Any]) -> list[str]:
    if not _STRINGS.issuperset(map(type, value)):
        wrong = next(type(name).__name__ for name in value if type(name) is not str)
        raise _Refusal(f"has a member name of type {wrong}; names must be str")
    names = sorted(value)
    if not "".join(names).isascii():  # RFC 8785 section 3.2.3: by UTF-16 code units, which differs above U+FFFF only
        try:
            names.sort(key=_utf16)
        except UnicodeEncodeError:
            raise _Refusal("has a member name that holds a lone surrogate, which no UTF-8 text can") from None
    return names


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be")


def _emit_list(value: Sequence[Any], put: _Put, blobs: dict[str, bytes], depth: int) -> None:
    if depth > MAX_NESTING:
        _refuse_nesting()
    index, before = 0, "["
    try:
        for index, item in enumerate(value):  # noqa: B007 - the handler below reads it
            scalar = _SCALARS.get(type(item))
            if scalar is not None:
                put(f"{before}{scalar(item)}")
            else:
                put(before)
                _emit(item, put, blobs, depth)
            before = ","
    except _Refusal as refusal:
        refusal.steps.append(index)
        raise
    put("]" if value else "[]")


def _emit_other(value: Any, put: _Put, blobs: dict[str, bytes], depth: int) -> None:
    """Put a value whose exact type is neither JSON's nor bytes."""
    numpy = sys.modules.get("numpy")  # a numpy value can only come from a numpy that is already imported
    if numpy is not None and type(value) in (numpy.ndarray, numpy.memmap):  # no others: a masked array has a mask
        try:
            dtype, shape, raw = array_parts(value)
        except TypeError as error:
            raise _Refusal(str(error)) from None
        sizes = ",".join(map(str, shape))
        digest = _keep(raw, blobs)
        put(f'{{"{_LEAF_OF_ARRAY}":{{"dtype":"{dtype}","sha256":"{digest}","shape":[{sizes}]}}}}')
    elif numpy is not None and isinstance(value, numpy.generic) and value.dtype.kind in "biufSU":
        plain = value.item()
        if isinstance(plain, numpy.generic):  # as `item` of a longdouble is
            raise _Refusal("is a numpy.longdouble; send it as a float")
        _emit(plain, put, blobs, depth)
    else:
        _emit(_plain(value), put, blobs, depth)


def _plain(value: Any) -> Any:
    """Return the value as one of an exact type that `_emit` knows, or refuse it."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        try:
            return value.model_dump(mode="json", by_alias=True)
        except ValueError as error:  # a PydanticSerializationError, such as for bytes that are not UTF-8
            name = type(value).__name__
            raise _Refusal(f"is a {name} that pydantic cannot write as JSON; send its model_dump()") from error
    if isinstance(value, Enum):
        raise _Refusal(f"is the enum member {value!s}; send its .value")
    for base, convert in _BASES:
        if isinstance(value, base):
            return convert(value)
    raise _Refusal(f"is a {type(value).__module__}.{type(value).__qualname__}; {_what_would_fit(value)}")


_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (bytes, bytes),
    (bytearray, bytes),
    (memoryview, bytes),
    (str, str.__str__),  # not str(): what a subclass makes of itself is not what it holds
    (float, float.__float__),
    (int, int.__int__),
    (dict, dict),
    (list, list),
    (tuple, list),
)


def _what_would_fit(value: Any) -> str:
    if isinstance(value, (set, frozenset)):
        return "send sorted(...) of it, a list"
    if hasattr(value, "isoformat"):
        return "send its .isoformat(), a str"
    if hasattr(value, "__dataclass_fields__"):
        return "send dataclasses.asdict(...) of it"
    if hasattr(value, "__array__"):
        return "send numpy.asarray(...) of it"
    if isinstance(value, complex):
        return "send a list of two floats, or a numpy array"
    return "send JSON values (None, bool, int, float, str, list, dict), bytes, a numpy array or a pydantic model"


def _string(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refusal("holds a lone surrogate, which no UTF-8 text can; send the bytes instead") from None
    return encode_basestring(value)


def _integer(value: int) -> str:
    if -MAX_INTEGER <= value <= MAX_INTEGER:
        return str(value)
    raise _Refusal("is an integer beyond ±(2^53-1); send it as a string or in a numpy array")


def _number(value: float) -> str:
    """Write a float as ECMAScript's Number::toString does (RFC 8785 section 3.2.2.3).

    Python's `repr` finds the same shortest digits and differs only in where it turns to exponents.
    """
    text = repr(value)
    if text[-2:] == ".0":
        return text[:-2] if value else "0"  # -0.0 is 0
    if "e" not in text:
        if "n" in text:  # nan, inf
            raise _Refusal("is NaN or infinite, which JSON cannot hold; send None, or a numpy array")
        return text
    mantissa, _, exponent = text.partition("e")
    power = int(exponent)
    if 0 < power < 21:  # noqa: PLR2004 - ECMA-262 Number::toString, step 6
        whole, _, fraction = mantissa.partition(".")
        return whole + fraction.ljust(power, "0")
    if -7 < power < 0:  # noqa: PLR2004 - step 8
        sign = "-" if value < 0 else ""
        return f"{sign}0.{'0' * (-power - 1)}{mantissa.lstrip('-').replace('.', '')}"
    return f"{mantissa}e{power:+d}"


_SCALARS: dict[type, Callable[[Any], str]] = {
    str: _string,
    float: _number,
    int: _integer,
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): {None: "null"}.__getitem__,
}


def _bytes_leaf(raw: bytes, blobs: dict[str, bytes]) -> str:
    return f'{{"{_LEAF_OF_BYTES}":"{_keep(raw, blobs)}"}}'


def _keep(raw: bytes, blobs: dict[str, bytes]) -> str:
    digest = sha256(raw).hexdigest()
    blobs[digest] = raw
    return digest


def _refuse_nesting() -> NoReturn:
    raise _Refusal(f"is nested deeper than {MAX_NESTING} levels (or holds itself); send it flatter")


def restore(text: bytes, blobs: Sequence[bytes]) -> Any:
    """Return the input that a canonical form stands for: what a model is given.

    A function of the form alone: numbers without a fraction come as int (beyond ±(2^53-1) as float, since only a float
    can have given them), tuples as lists, bytes-likes as bytes, arrays little-endian and writable, members sorted.

    Args:
        text: `CanonicalInput.text`.
        blobs: the blobs it names, each once, in any order.

    Raises:
        MalformedMessage: not JSON, nested too deep, an unknown `$` member, or blobs that are not those named.
        Misconfigured: the input holds an array and numpy is not installed here.
    """
    named = {sha256(blob).hexdigest(): blob for blob in blobs}
    unused = set(named)
    try:
        value = _revive(json.loads(str(text, "utf-8")), named, unused, 0)
    except (ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage(f"the text is not a canonical input: {error}") from error
    if unused or len(named) != len(blobs):
        raise MalformedMessage("the message brings blobs that its text does not name")
    return value


def _revive(value: Any, named: dict[str, bytes], unused: set[str], depth: int) -> Any:  # noqa: PLR0911 - one a type
    kind = type(value)
    if kind is str:
        if not value.isascii():
            value.encode()  # refuses lone surrogates
        return value
    if kind is float:
        if value - value != 0:
            raise ValueError("a number that no double holds")
        return value
    if kind is int:
        return value if -MAX_INTEGER <= value <= MAX_INTEGER else float(value)
    if kind is list:
        _check_depth(depth)
        return [_revive(item, named, unused, depth + 1) for item in value]
    if kind is not dict:
        return value  # None, True, False
    leaf = next((name for name in value if name[:1] == "$" and name[:2] != "$$"), None)
    if leaf is not None:
        return _revive_leaf(leaf, value, named, unused)
    _check_depth(depth)
    return {
        _revive(name[1:] if name[:1] == "$" else name, named, unused, depth): _revive(item, named, unused, depth + 1)
        for name, item in value.items()
    }


def _revive_leaf(leaf: str, value: dict[str, Any], named: dict[str, bytes], unused: set[str]) -> Any:
    body = value[leaf]
    if len(value) == 1 and leaf == _LEAF_OF_BYTES:
        return _blob(body, named, unused)
    if len(value) == 1 and leaf == _LEAF_OF_ARRAY and type(body) is dict and body.keys() == _ARRAY_MEMBERS:
        return array_from(body["dtype"], body["shape"], _blob(body["sha256"], named, unused))
    raise ValueError(f"an unknown or misshapen {leaf!r:.40} member")


def _blob(digest: Any, named: dict[str, bytes], unused: set[str]) -> bytes:
    if type(digest) is not str or digest not in named:
        raise ValueError("it names a blob that the message does not bring, or brings changed")
    unused.discard(digest)
    return named[digest]


def _check_depth(depth: int) -> None:
    if depth >= MAX_NESTING:
        raise ValueError(f"nested deeper than {MAX_NESTING} levels")
