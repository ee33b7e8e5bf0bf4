"""A batch as arrays, whose first axis it is: inputs are stacked for a framework, what it gives is taken apart again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from pydantic import BaseModel

__all__ = ["Arrays", "rows", "stacked"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Arrays: TypeAlias = Array | dict[str, Array]


def stacked(batch: Sequence[Any], floats: str | None = None) -> Arrays:
    """Return a batch of inputs as one array, or by name as several.

    Args:
        batch: numbers, lists of them, or arrays, all of one shape; or mappings or pydantic models of those.
        floats: the dtype that floating-point numbers get, such as "float32"; None leaves it.

    Raises:
        ValueError: the shapes differ, so that each input has to be computed alone.
    """
    first = batch[0]
    if isinstance(first, BaseModel):
        return _by_name([{name: getattr(one, name) for name in type(one).model_fields} for one in batch], floats)
    if isinstance(first, Mapping):
        return _by_name(batch, floats)
    arrays = [np.asarray(one) for one in batch]
    whole: Array = np.stack(arrays)
    if whole.dtype.kind not in "biufc":  # of lists that are not of one length, or of numbers
        raise ValueError(f"an input is no array of numbers: numpy makes it one of {whole.dtype}")
    return whole.astype(floats, copy=False) if floats is not None and whole.dtype.kind == "f" else whole


def rows(results: Any, count: int, *, as_arrays: bool) -> list[Any]:
    """Return what belongs to each item.

    Args:
        results: an array whose first axis has `count` items; a mapping or a sequence of such.
        count: of items.
        as_arrays: keep each row an array, rather than a number or nested lists of numbers.

    Returns:
        Rows; dicts of rows, or lists of them, if there are several arrays.

    Raises:
        ValueError: an array's first axis is not the batch's.
    """
    if isinstance(results, Mapping):
        columns = [rows(column, count, as_arrays=as_arrays) for column in results.values()]
        return [dict(zip(results, one, strict=True)) for one in zip(*columns, strict=True)]
    if isinstance(results, (list, tuple)):
        columns = [rows(column, count, as_arrays=as_arrays) for column in results]
        return [list(one) for one in zip(*columns, strict=True)]
    array = np.asarray(results)
    if array.ndim == 0 or len(array) != count:
        raise ValueError(f"an output of shape {array.shape} for a batch of {count}: its first axis must be the batch's")
    return [row.copy() for row in array] if as_arrays and array.ndim > 1 else array.tolist()


def _by_name(batch: Sequence[Mapping[str, Any]], floats: str | None) -> dict[str, Array]:
    names = batch[0].keys()
    if any(one.keys() != names for one in batch):
        raise ValueError("inputs of one batch name different arrays")
    by_name: dict[str, Array] = {}
    for name in names:
        column = stacked([one[name] for one in batch], floats)
        if isinstance(column, dict):
            raise TypeError(f"{name} is not an array")
        by_name[name] = column
    return by_name
