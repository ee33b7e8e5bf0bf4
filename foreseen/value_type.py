"""A value type: what a model takes or gives, checked by pydantic and described by a JSON Schema.

Values are checked *as they travel*: JSON values, bytes and numpy arrays. The schema describes the same values in their
canonical JSON (`foreseen.canonical`), so that a producer can refuse an input before it queues it. Where pydantic would
convert (the text "3" to the number 3), the schema is the stricter of the two: it says what to send.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Strict, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticOmit, core_schema

from foreseen.errors import Misconfigured

__all__ = ["DoesNotFit", "ValueType"]

Mode: TypeAlias = Literal["validation", "serialization"]

_MAX_ERRORS = 5  # enough to mend a wrong input with; a list of thousands has thousands
_ANY: JsonSchemaValue = {}
_BYTES: JsonSchemaValue = {
    "type": "object",
    "required": ["$bytes"],
    "properties": {"$bytes": {"type": "string"}},
    "additionalProperties": False,
}
_ARRAY: JsonSchemaValue = {
    "type": "object",
    "required": ["$array"],
    "properties": {
        "$array": {
            "type": "object",
            "required": ["dtype", "sha256", "shape"],
            "properties": {
                "dtype": {"type": "string"},
                "sha256": {"type": "string"},
                "shape": {"type": "array", "items": {"type": "integer"}},
            },
        }
    },
    "additionalProperties": False,
}
_RETOLD = {
    "union_tag_invalid": "The tag is none of the expected ones",
    "value_error": "The type's own validation refused it",
    "assertion_error": "The type's own validation refused it",
}
"""Kinds of pydantic errors whose message may quote the input, and what is said in their place."""


class DoesNotFit(Exception):
    """A value does not fit its type. The message says where and what would fit, and never quotes the value.

    Attributes:
        errors: JSON values: `loc`, `type` and `message` of the first few errors.
    """

    def __init__(self, message: str, errors: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.errors = errors


class ValueType:
    """A type that pydantic can validate.

    Args:
        hint: a pydantic model, a dataclass, a `TypedDict`, `bytes`, `dict[str, Any]`, `numpy.ndarray`, ...

    Raises:
        Misconfigured: at first use: pydantic cannot validate it.
    """

    def __init__(self, hint: Any) -> None:
        self.hint = hint

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        # pydantic takes a str for bytes. For a model whose whole input is bytes that str is nearly always a path given
        # by mistake, and the model would answer about the path's letters.
        hint: Any = self.hint
        if hint is bytes:
            hint = Annotated[bytes, Strict()]
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
            adapter.rebuild(raise_errors=True)  # does nothing, unless a type that was named could not be found
        except PydanticUndefinedAnnotation as error:
            raise Misconfigured(f"{self.hint!r} names a type that is not defined: {error.message}") from error
        except PydanticUserError as error:
            if error.code != "type-adapter-config-unused":
                raise Misconfigured(f"{self.hint!r} is no type that pydantic can validate: {error.message}") from error
            return TypeAdapter(hint)  # pydantic models and their like bring a configuration of their own
        return adapter

    def validate(self, value: Any) -> Any:
        """Return the value as an instance of the type.

        Raises:
            DoesNotFit: it is none.
        """
        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            raise _does_not_fit(error) from None

    def dump(self, value: Any) -> Any:
        """Validate and return plain values: models become dicts; what `foreseen.payload.pack` takes stays as it is.

        Raises:
            DoesNotFit: it is none.
        """
        return self._adapter.dump_python(self.validate(value), by_alias=True)

    def schema(self, mode: Mode) -> dict[str, Any]:
        """Return the JSON Schema of the canonical form; where JSON Schema cannot say it, `{}`, which fits all."""
        try:
            return self._adapter.json_schema(mode=mode, schema_generator=_CanonicalSchema)
        except (PydanticInvalidForJsonSchema, PydanticOmit):
            return {}


def _does_not_fit(error: ValidationError) -> DoesNotFit:
    errors: list[dict[str, Any]] = []
    for one in error.errors(include_url=False, include_context=False, include_input=False)[:_MAX_ERRORS]:
        message = _RETOLD.get(one["type"], one["msg"])
        errors.append({"loc": [*one["loc"]], "type": one["type"], "message": message})
    told = "; ".join(f"{_path(one['loc'])}: {one['message']}" for one in errors)
    more = error.error_count() - len(errors)
    return DoesNotFit(f"{told}; and {more} more" if more > 0 else told, errors)


def _path(loc: list[str | int]) -> str:
    """Return a location as in `$.user.ages[3]`, the way `foreseen.canonical` writes it."""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step[:40]}" for step in loc)


class _CanonicalSchema(GenerateJsonSchema):
    """JSON Schemas of canonical forms, where bytes and arrays are leaves and a name's leading `$` is doubled."""

    def bytes_schema(self, schema: core_schema.BytesSchema) -> JsonSchemaValue:
        if schema.get("strict") or self.mode == "serialization":
            return dict(_BYTES)
        text: JsonSchemaValue = {"type": "string"}
        return {"anyOf": [dict(_BYTES), text]}

    def is_instance_schema(self, schema: core_schema.IsInstanceSchema) -> JsonSchemaValue:
        cls = schema["cls"]
        if getattr(cls, "__module__", "") == "numpy" and getattr(cls, "__name__", "") == "ndarray":
            return dict(_ARRAY)
        return super().is_instance_schema(schema)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        return self._no_leaf(super().dict_schema(schema))

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        return self._no_leaf(_with_doubled_dollars(super().typed_dict_schema(schema)))

    def model_fields_schema(self, schema: core_schema.ModelFieldsSchema) -> JsonSchemaValue:
        return self._no_leaf(_with_doubled_dollars(super().model_fields_schema(schema)))

    def dataclass_args_schema(self, schema: core_schema.DataclassArgsSchema) -> JsonSchemaValue:
        return self._no_leaf(_with_doubled_dollars(super().dataclass_args_schema(schema)))

    def _no_leaf(self, schema: JsonSchemaValue) -> JsonSchemaValue:
        """Keep an object that requires no member from fitting bytes and arrays, which are objects in canonical JSON."""
        if self.mode == "validation" and not schema.get("required"):
            schema["properties"] = {**schema.get("properties", {}), "$bytes": False, "$array": False}
        return schema


def _with_doubled_dollars(schema: JsonSchemaValue) -> JsonSchemaValue:
    properties: Mapping[str, Any] = schema.get("properties", _ANY)
    if any(name.startswith("$") for name in properties):
        schema["properties"] = {_doubled(name): body for name, body in properties.items()}
        schema["required"] = [_doubled(name) for name in schema.get("required", [])]
    return schema


def _doubled(name: str) -> str:
    return f"${name}" if name.startswith("$") else name
