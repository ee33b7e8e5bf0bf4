"""An input to try a model with, made from its JSON Schema."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["example"]

_PLAIN: Final[dict[str, Any]] = {
    "string": "hello",
    "integer": 1,
    "number": 1.0,
    "boolean": True,
    "null": None,
    "array": [],
}
_MAX_DEPTH: Final = 4  # of objects in objects; a type that holds itself has no bottom


def example(schema: Any) -> Any:
    """Return a value that is likely to fit: who needs to know has to try.

    Raises:
        LookupError: the schema says nothing to go by.
    """
    return _example(schema, schema.get("$defs", {}) if isinstance(schema, dict) else {}, _MAX_DEPTH)


def _example(schema: Any, definitions: dict[str, Any], depth: int) -> Any:
    if not isinstance(schema, dict) or depth == 0:
        raise LookupError("nothing to go by")
    if "$ref" in schema:
        return _example(definitions[schema["$ref"].rpartition("/")[2]], definitions, depth - 1)
    for word in ("examples", "enum", "anyOf", "oneOf", "allOf"):
        if first := next(iter(schema.get(word, ())), None):
            return _example(first, definitions, depth - 1) if word.endswith("Of") else first
    for word in ("default", "const"):
        if word in schema:
            return schema[word]
    return _by_type(schema, definitions, depth)


def _by_type(schema: dict[str, Any], definitions: dict[str, Any], depth: int) -> Any:
    kind = schema["type"]
    if kind == "object":
        return _object(schema, definitions, depth)
    if kind == "array" and schema.get("minItems"):
        return [_example(schema.get("items"), definitions, depth - 1)] * int(schema["minItems"])
    return _PLAIN[kind]


def _object(schema: dict[str, Any], definitions: dict[str, Any], depth: int) -> Any:
    properties = schema.get("properties", {})
    if properties.get("$bytes"):  # as bytes look in canonical JSON; False says that it is anything else
        return b"hello"
    if properties.get("$array"):
        raise LookupError("an array's shape is the model's own business")
    return {name: _example(properties.get(name), definitions, depth - 1) for name in schema.get("required", ())}
