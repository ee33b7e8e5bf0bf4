"""How far two outputs are apart: by their floats, wherever these are, if all else is equal."""

from __future__ import annotations

import math
import sys
from typing import Any, Final

__all__ = ["deviation"]

#: Of values that differ in more than floats.
_APART: Final = math.inf


def deviation(one: Any, other: Any) -> float:
    """Return how far two values, as they travel, are apart.

    Returns:
        The largest difference of any two floats in the same place: absolute for numbers below 1, in proportion to the
        larger one above. NaN is equal to NaN, and 1 to 1.0. Infinity if anything else differs.
    """
    if _is_number(one) and _is_number(other):
        return _of_numbers(one, other)
    if type(one) is not type(other):
        return _APART
    if isinstance(one, dict):
        apart = (deviation(value, other[name]) for name, value in one.items() if name in other)
        return max(apart, default=0.0) if one.keys() == other.keys() else _APART
    if isinstance(one, list):
        return max(map(deviation, one, other), default=0.0) if len(one) == len(other) else _APART
    numpy = sys.modules.get("numpy")  # without it there is no array
    if numpy is not None and isinstance(one, numpy.ndarray):
        return _of_arrays(numpy, one, other)
    return 0.0 if one == other else _APART


def _of_numbers(one: float, other: float) -> float:
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    if isinstance(one, int) and isinstance(other, int):
        return _APART
    apart = abs(one - other) / max(1.0, abs(one), abs(other))
    return apart if math.isfinite(apart) else _APART


def _of_arrays(numpy: Any, one: Any, other: Any) -> float:
    if one.dtype != other.dtype or one.shape != other.shape:
        return _APART
    if one.dtype.kind not in "fc":
        return 0.0 if numpy.array_equal(one, other) else _APART
    wide = numpy.result_type(one.dtype, numpy.float64)
    one, other = one.astype(wide), other.astype(wide)
    unlike = ~((one == other) | (numpy.isnan(one) & numpy.isnan(other)))
    if not unlike.any():
        return 0.0
    one, other = one[unlike], other[unlike]
    with numpy.errstate(all="ignore"):
        apart = abs(one - other) / numpy.maximum(1.0, numpy.maximum(abs(one), abs(other)))
    return float(apart.max()) if numpy.isfinite(apart).all() else _APART


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
