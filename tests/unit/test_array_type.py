"""Types of inputs with arrays and bytes in them: what fits, what is said, what the card's JSON Schema says of it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import jsonschema_rs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import BaseModel
from typing_extensions import TypedDict

from foreseen.array_type import ArrayOf
from foreseen.canonical import canonicalize, restore
from foreseen.errors import Misconfigured
from foreseen.value_type import DoesNotFit, ValueType

Image = Annotated[np.ndarray, ArrayOf("uint8", (None, None, 3))]
Row = Annotated[NDArray[np.float32], ArrayOf("float32", (4,))]


class Scan(BaseModel):
    image: Image
    row: Row
    note: str = ""


class Pair(TypedDict):
    left: Row
    right: Row


IMAGE = np.zeros((2, 5, 3), np.uint8)
ROW = np.arange(4, dtype=np.float32)


def travelled(hint: Any, value: Any) -> Any:
    """Send a value as a producer does, past the card's schema, and validate it as a worker does."""
    kind = ValueType(hint)
    canonical = canonicalize(value)
    jsonschema_rs.Draft202012Validator(kind.schema("validation")).validate(json.loads(canonical.text))
    return kind.validate(restore(*canonical))


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Image, IMAGE),
        (Row, ROW),
        (Scan, {"image": IMAGE, "row": ROW, "note": "a"}),
        (Pair, {"left": ROW, "right": ROW}),
        (dict[str, Row], {"a": ROW, "$b": ROW}),
        (dict[str, np.ndarray], {"a": ROW, "b": IMAGE}),
        (list[Row], [ROW, ROW]),
        (Row | None, None),
        (dict[str, bytes], {"front": b"\x89PNG", "back": b""}),
        (Annotated[np.ndarray, ArrayOf()], IMAGE),
        (Annotated[np.ndarray, ArrayOf("complex64", ())], np.array(1j, np.complex64)),
    ],
    ids=str,
)
def test_what_fits_arrives_as_it_was_sent(hint: Any, value: Any) -> None:
    came = travelled(hint, value)
    if isinstance(came, Scan):
        came = dict(came)
    np.testing.assert_equal(came, value)


@pytest.mark.parametrize(
    ("hint", "value", "told"),
    [
        (Row, ROW.astype(np.float64), r"^\$: Input should be an array of float32, not of float64$"),
        (Row, ROW[:3], r"^\$: Input should be an array of shape \(4\), not \(3\)$"),
        (Image, IMAGE[0], r"of shape \(any, any, 3\), not \(5, 3\)"),
        (Scan, {"image": IMAGE, "row": IMAGE}, r"^\$\.row: Input should be an array of float32, not of uint8$"),
        (Pair, {"left": ROW}, r"\$\.right: Field required"),
        (dict[str, Row], {"a": ROW, "b": [0.0] * 4}, r"\$\.b: Input should be an instance of ndarray"),
        (Row, ROW.tobytes(), "instance of ndarray"),
    ],
)
def test_what_does_not_fit_is_refused_by_producers_and_by_workers(hint: Any, value: Any, told: str) -> None:
    with pytest.raises(DoesNotFit, match=told):
        ValueType(hint).validate(value)
    schema = jsonschema_rs.Draft202012Validator(ValueType(hint).schema("validation"))
    assert not schema.is_valid(json.loads(canonicalize(value).text))


def test_the_schema_says_how_an_array_travels() -> None:
    schema = ValueType(Image).schema("validation")["properties"]["$array"]["properties"]
    assert schema["dtype"] == {"const": "|u1"}
    assert schema["shape"]["prefixItems"] == [{"type": "integer"}, {"type": "integer"}, {"const": 3}]
    assert ValueType(Image).schema("serialization")["properties"]["$array"]["properties"] == schema
    plain = ValueType(np.ndarray).schema("validation")["properties"]["$array"]["properties"]
    assert plain["dtype"] == {"type": "string"}, "what ArrayOf says is its own schema's alone"


def test_an_output_is_held_to_it_too() -> None:
    assert ValueType(Row).dump(ROW) is ROW
    with pytest.raises(DoesNotFit, match="of float32, not of int64"):
        ValueType(Row).dump(np.zeros(4, np.int64))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("float3",), "give a bool"),
        (("object",), "give a bool"),
        (("float32", [4]), "give a tuple of sizes"),
        (("float32", (-1,)), "give a tuple of sizes"),
        ((None, (1.5,)), "give a tuple of sizes"),
    ],
)
def test_a_kind_that_is_none_is_refused(arguments: tuple[Any, ...], told: str) -> None:
    with pytest.raises(Misconfigured, match=told):
        ArrayOf(*arguments)


def test_beside_another_type_it_is_refused() -> None:
    with pytest.raises(Misconfigured, match=r"ArrayOf goes with numpy\.ndarray"):
        ValueType(Annotated[bytes, ArrayOf("uint8")]).schema("validation")
