"""numpy arrays as they travel: element type, shape, raw bytes; without importing numpy where there is no array."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from foreseen.errors import Misconfigured

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ARRAY_DTYPES", "array_from", "array_parts"]

ARRAY_DTYPES = frozenset(
    "|b1 |i1 |u1 <i2 <u2 <i4 <u4 <i8 <u8 <f2 <f4 <f8 <c8 <c16".split()  # noqa: SIM905 - reads better than a list
)
"""numpy's own names for the element types that arrays may have on their way."""

_MAX_DIMENSIONS = 64  # numpy's own limit


def array_parts(array: np.ndarray[Any, Any]) -> tuple[str, tuple[int, ...], bytes]:
    """Take an array apart.

    Returns:
        One of `ARRAY_DTYPES`; the shape; the elements in C order, little-endian.

    Raises:
        TypeError: elements of another type; the message says which would fit.
    """
    name = array.dtype.str
    if name[0] == ">":
        name = "<" + name[1:]
        if name in ARRAY_DTYPES:
            array = array.astype(name)
    if name not in ARRAY_DTYPES:
        raise TypeError(
            f"is an array of {array.dtype}; its dtype must be a bool, (u)int8-64, float16-64 or complex64-128"
        )
    return name, array.shape, array.tobytes()


def array_from(dtype: Any, shape: Any, raw: bytes) -> np.ndarray[Any, Any]:
    """Put an array together, in memory of its own (writable).

    Raises:
        ValueError: the parts do not fit each other.
        Misconfigured: numpy is not installed here.
    """
    if type(dtype) is not str or dtype not in ARRAY_DTYPES:
        raise ValueError(f"unknown dtype {dtype!r:.40}")
    if not isinstance(shape, (list, tuple)) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError("a shape that is not a list of sizes")
    if not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise ValueError("a shape with a size that is none")
    try:
        numpy = importlib.import_module("numpy")
    except ImportError as error:
        raise Misconfigured("a numpy array has come, and numpy is not installed here: install numpy") from error
    array: np.ndarray[Any, Any] = numpy.frombuffer(raw, dtype=dtype).reshape(shape).copy()
    return array
