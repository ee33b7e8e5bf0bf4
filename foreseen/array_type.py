"""What a numpy array has to be to fit: its element type and its shape, told to producers by the card's JSON Schema.

Image = Annotated[np.ndarray, ArrayOf("uint8", (None, None, 3))]
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, get_origin

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from foreseen.arrays import ARRAY_DTYPES
from foreseen.errors import Misconfigured

__all__ = ["ArrayOf"]


@dataclass(frozen=True, slots=True)
class ArrayOf:
    """In an `Annotated[numpy.ndarray, ...]`, anywhere in a type: refuses arrays that are of another kind.

    Nothing is converted: an array of 64-bit floats is none of 32-bit ones, and its key would be another, too.

    Attributes:
        dtype: of the elements, as numpy names it, such as "float32"; None takes any that can travel.
        shape: a size for each dimension, None where any will do; None takes any shape.

    Raises:
        Misconfigured: a type that cannot travel, or a shape that is none.
    """

    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None:
            try:
                name = self._numpy().dtype(self.dtype).str
            except TypeError:
                name = ""
            if name not in ARRAY_DTYPES:
                raise Misconfigured(f"ArrayOf({self.dtype!r}): give a bool, (u)int8-64, float16-64 or complex64-128")
        shape: Any = self.shape
        if shape is not None and not (isinstance(shape, tuple) and all(map(_is_size, shape))):
            raise Misconfigured(f"ArrayOf(shape={shape!r}): give a tuple of sizes, None where any will do: (None, 64)")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        numpy = self._numpy()
        if (get_origin(source) or source) is not numpy.ndarray:
            raise Misconfigured(f"ArrayOf goes with numpy.ndarray, not {source!r}: Annotated[np.ndarray, ArrayOf()]")
        array = core_schema.is_instance_schema(numpy.ndarray)
        return core_schema.no_info_after_validator_function(self._checked, array)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        leaf = handler(schema)
        array = leaf["properties"]["$array"]
        properties = dict(array["properties"])
        if self.dtype is not None:
            properties["dtype"] = {"const": self._numpy().dtype(self.dtype).str}
        if self.shape is not None:
            sizes = [{"type": "integer"} if size is None else {"const": size} for size in self.shape]
            dimensions: JsonSchemaValue = {"type": "array", "minItems": len(sizes), "maxItems": len(sizes)}
            properties["shape"] = {**dimensions, "prefixItems": sizes} if sizes else dimensions
        return {**leaf, "properties": {"$array": {**array, "properties": properties}}}

    def _checked(self, array: Any) -> Any:
        if self.dtype is not None and array.dtype != self._numpy().dtype(self.dtype):
            raise PydanticCustomError(
                "array_dtype", "Input should be an array of {dtype}, not of {got}",
                {"dtype": self.dtype, "got": str(array.dtype)},
            )  # fmt: skip
        if self.shape is not None and not (
            len(self.shape) == array.ndim
            and all(wanted in (None, size) for wanted, size in zip(self.shape, array.shape, strict=True))
        ):
            raise PydanticCustomError(
                "array_shape", "Input should be an array of shape {shape}, not {got}",
                {"shape": _told(self.shape), "got": _told(array.shape)},
            )  # fmt: skip
        return array

    @staticmethod
    def _numpy() -> Any:
        try:
            return importlib.import_module("numpy")
        except ModuleNotFoundError as error:
            raise Misconfigured("ArrayOf needs numpy: pip install numpy") from error


def _is_size(size: Any) -> bool:
    return size is None or (type(size) is int and size >= 0)


def _told(shape: tuple[int | None, ...]) -> str:
    """Return a shape as `(any, 64)`."""
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"
