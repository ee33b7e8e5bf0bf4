from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import math
import sys
import uuid
from typing import Any

import msgpack
import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreseen.arrays import ARRAY_DTYPES
from foreseen.canonical import MAX_NESTING
from foreseen.errors import MalformedEntry, Misconfigured
from foreseen.payload import ARRAY_CODE, pack, unpack

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def nest(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


class Shade(enum.Enum):
    DARK = "dark"


class Label(pydantic.BaseModel):
    name: str
    at: dt.date
    raw: bytes


@dataclasses.dataclass
class Box:
    corner: tuple[int, int]
    pixels: Any


class TestPlainValues:
    @settings(deadline=None)
    @given(json_values)
    def test_come_back_as_they_went(self, value: Any) -> None:
        """By `repr`, since Python takes 1, 1.0 and True for equal; names keep their order."""
        assert repr(unpack(pack(value))) == repr(value)

    def test_floats_stay_floats(self) -> None:
        assert repr(unpack(pack([1.0, -0.0, math.inf, math.nan]))) == "[1.0, -0.0, inf, nan]"

    def test_tuples_travel_as_lists(self) -> None:
        assert unpack(pack((1, (2, ())))) == [1, [2, []]]

    @pytest.mark.parametrize("like", [bytearray(b"abc"), memoryview(b"abc")])
    def test_bytes_likes_travel_as_bytes(self, like: Any) -> None:
        assert unpack(pack([like])) == [b"abc"]


class TestArrays:
    @pytest.mark.parametrize("dtype", sorted(ARRAY_DTYPES))
    @pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3)])
    def test_come_back_with_type_shape_and_elements(self, dtype: str, shape: tuple[int, ...]) -> None:
        array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
        (came,) = unpack(pack([array]))
        assert (came.dtype, came.shape, came.tobytes()) == (array.dtype, shape, array.tobytes())

    def test_come_back_little_endian_and_in_c_order(self) -> None:
        array = np.asfortranarray(np.arange(6).reshape(2, 3).astype(">i4"))
        came = unpack(pack(array))
        assert came.dtype.str == "<i4"
        assert np.array_equal(came, array)

    def test_come_back_writable(self) -> None:
        unpack(pack(np.zeros(2)))[0] = 1

    def test_have_the_layout_that_the_module_documents(self) -> None:
        head = b"<f4\0" + b"\x02" + (1).to_bytes(8) + (2).to_bytes(8)
        array = np.array([[1, 2]], ">f4")
        expected = msgpack.packb(msgpack.ExtType(ARRAY_CODE, head + array.astype("<f4").tobytes()))
        assert pack(array) == expected

    def test_of_objects_are_refused(self) -> None:
        with pytest.raises(TypeError, match=r"^\$\['a'\]\[1\] cannot travel: is an array of object"):
            pack({"a": [1, np.array([None])]})

    @pytest.mark.parametrize(
        ("scalar", "plain"), [(np.float32(0.5), 0.5), (np.int64(-3), -3), (np.bool_(1), True), (np.longdouble(2), 2.0)]
    )
    def test_scalars_travel_as_plain_numbers(self, scalar: Any, plain: Any) -> None:
        came = unpack(pack({"x": [scalar]}))["x"][0]
        assert (type(came), came) == (type(plain), plain)

    def test_where_numpy_is_missing_say_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        packed = pack(np.zeros(2))
        monkeypatch.setitem(sys.modules, "numpy", None)
        with pytest.raises(Misconfigured, match="install numpy"):
            unpack(packed)


class TestOtherTypes:
    @pytest.mark.parametrize(
        ("value", "plain"),
        [
            (dt.datetime(2020, 1, 2, tzinfo=dt.UTC), "2020-01-02T00:00:00Z"),
            (Shade.DARK, "dark"),
            (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            (decimal.Decimal("1.50"), "1.50"),
            ({1}, [1]),
        ],
    )
    def test_travel_as_pydantic_writes_them(self, value: Any, plain: Any) -> None:
        assert unpack(pack([value])) == [plain]

    def test_pydantic_models_travel_as_their_dump_with_bytes_as_bytes(self) -> None:
        label = Label(name="x", at=dt.date(2020, 1, 2), raw=b"\xff")
        assert unpack(pack([label])) == [{"name": "x", "at": "2020-01-02", "raw": b"\xff"}]

    def test_dataclasses_travel_as_dicts_with_arrays_as_arrays(self) -> None:
        came = unpack(pack(Box((1, 2), np.array([3]))))
        assert came["corner"] == [1, 2]
        assert came["pixels"].tolist() == [3]

    @pytest.mark.parametrize(
        ("value", "kind", "message"),
        [
            ({"a": [0, object()]}, TypeError, r"^\$\['a'\]\[1\] cannot travel"),
            ({"a": {1: 2}}, TypeError, r"^\$\['a'\] cannot travel: a member name of type int"),
            ([Box((1, 2), {1: 2})], TypeError, r"^\$\[0\] cannot travel: a member name of type int"),
            ([1, 2**64], ValueError, r"^\$\[1\] cannot travel: an integer beyond 64 bits"),
            (["ok", "\ud800"], ValueError, r"^\$\[1\] cannot travel: .*surrogates"),
            ([[msgpack.ExtType(5, b"")]], TypeError, r"^\$\[0\]\[0\] cannot travel: a msgpack.ExtType"),
            ([msgpack.Timestamp(1)], TypeError, r"^\$\[0\] cannot travel: a msgpack.Timestamp"),
            (nest(MAX_NESTING + 1), ValueError, f"nested deeper than {MAX_NESTING}"),
        ],
    )
    def test_that_cannot_travel_are_refused_with_their_path(
        self, value: Any, kind: type[Exception], message: str
    ) -> None:
        with pytest.raises(kind, match=message):
            pack(value)

    def test_a_list_that_holds_itself_is_refused(self) -> None:
        endless: list[Any] = []
        endless.append(endless)
        with pytest.raises(ValueError, match="nested deeper"):
            pack(endless)

    def test_nesting_up_to_the_limit_travels(self) -> None:
        assert unpack(pack(nest(MAX_NESTING))) == nest(MAX_NESTING)


class TestUnpack:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xc1",
            b"\x01\x02",
            b"\xdd\xff\xff\xff\xff",
            msgpack.packb({1: 2}),
            msgpack.packb(msgpack.ExtType(2, b"|u1\0\x00a")),
            msgpack.packb(msgpack.Timestamp(1)),
            msgpack.packb([msgpack.Timestamp(1)]),
            msgpack.packb(msgpack.ExtType(ARRAY_CODE, b"<f4")),
            msgpack.packb(msgpack.ExtType(ARRAY_CODE, b"<f4\0\x01")),
            msgpack.packb(msgpack.ExtType(ARRAY_CODE, b"<f4\0\x01" + (2).to_bytes(8) + b"abcd")),
            msgpack.packb(msgpack.ExtType(ARRAY_CODE, b"|O8\0\x00" + b"a" * 8)),
            msgpack.packb(msgpack.ExtType(ARRAY_CODE, b"\xff\xff\xff\xff\x00")),
            msgpack.packb(nest(MAX_NESTING + 1)),
            b"\x91" * 5000 + b"\x01",
            b"\xa1\xff",
        ],
        ids=lambda data: data[:16].hex() or "empty",
    )
    def test_refuses_what_pack_does_not_write(self, data: bytes) -> None:
        with pytest.raises(MalformedEntry):
            unpack(data)

    @settings(deadline=None, max_examples=500)
    @given(st.binary(max_size=40))
    def test_of_any_bytes_gives_a_value_or_that_error(self, data: bytes) -> None:
        with contextlib.suppress(MalformedEntry):
            unpack(data)

    @settings(deadline=None, max_examples=300)
    @given(json_values, st.data())
    def test_of_changed_bytes_gives_a_value_or_that_error(self, value: Any, data: st.DataObject) -> None:
        packed = bytearray(pack([value, np.zeros((1, 2), "f4")]))
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(MalformedEntry):
            unpack(bytes(packed))
