from __future__ import annotations

import contextlib
import datetime as dt
import enum
import json
import math
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pydantic
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from foreseen.arrays import ARRAY_DTYPES
from foreseen.canonical import MAX_NESTING, CanonicalInput, canonicalize, restore
from foreseen.errors import InvalidInput, MalformedMessage, Misconfigured

SAFE = 2**53 - 1

# RFC 8785, appendix B: the bits of a double and how it is written.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}

names = st.text(max_size=4) | st.sampled_from(["$", "$bytes", "$array", "$$bytes", "a", "\ufb33", "\U0001f600"])
json_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-SAFE, SAFE)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)


def nested(leaves: st.SearchStrategy[Any], max_leaves: int = 12) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(names, inner, max_size=4)
        ),
        max_leaves=max_leaves,
    )


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    dtype = np.dtype(draw(st.sampled_from(sorted(ARRAY_DTYPES))))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    array = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)
    return array.astype(dtype.newbyteorder(draw(st.sampled_from("<>"))))


inputs = nested(json_scalars | st.binary(max_size=6) | st.binary(max_size=6).map(bytearray) | arrays())
# So few values that two draws are often the same input, or nearly.
near_inputs = nested(
    st.sampled_from([0, 1, 1.0, -0.0, True, "1", b"1", "", None, np.array([1], "f4"), np.array([49], "u1")]), 3
)


def told(value: Any) -> Any:
    """Describe an input as a model is given it, type by type: Python's `==` takes 1, 1.0 and True for one."""
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) <= SAFE
        return ("int", int(value)) if whole else ("float", value)
    if isinstance(value, np.ndarray):
        little = value.astype(value.dtype.newbyteorder("<"))
        return ("array", little.dtype.str, little.shape, little.tobytes())
    if isinstance(value, Mapping):
        return ("object", frozenset((name, told(item)) for name, item in value.items()))
    if isinstance(value, (list, tuple)):
        return ("list", tuple(told(item) for item in value))
    if isinstance(value, (bytes, bytearray)):
        return ("bytes", bytes(value))
    return (type(value).__name__, value)


def back(value: Any) -> Any:
    form = canonicalize(value)
    return restore(form.text, form.blobs)


class TestNumbers:
    @pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
    def test_are_written_as_in_the_rfcs_table(self, bits: str, text: str) -> None:
        (number,) = struct.unpack(">d", bytes.fromhex(bits))
        assert canonicalize(number).text == text.encode()

    @settings(deadline=None, max_examples=500)
    @given(st.integers(0, 2**64 - 1))
    def test_of_any_bits_are_written_as_the_reference_writes_them(self, bits: int) -> None:
        (number,) = struct.unpack(">d", bits.to_bytes(8))
        if math.isfinite(number):
            assert canonicalize(number).text == rfc8785.dumps(number)
            assert float(canonicalize(number).text) == number

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    def test_that_json_cannot_hold_are_refused(self, number: float) -> None:
        with pytest.raises(InvalidInput, match=r"^\$\.x\[1\] is NaN or infinite"):
            canonicalize({"x": [0.5, number]})

    @pytest.mark.parametrize("number", [2**53, -(2**53), 10**30])
    def test_beyond_what_a_double_holds_exactly_are_refused(self, number: int) -> None:
        with pytest.raises(InvalidInput, match=r"^\$ is an integer beyond .* send it as a string"):
            canonicalize(number)

    def test_without_a_fraction_are_given_to_models_as_integers(self) -> None:
        assert told(back([1.0, -0.0])) == ("list", (("int", 1), ("int", 0)))

    def test_beyond_the_integers_are_given_to_models_as_floats(self) -> None:
        """Only a float can have given such a text, and it can be sent again as it came."""
        assert type(back(1e20)) is float
        assert canonicalize(back(1e20)) == canonicalize(1e20)


class TestText:
    @settings(deadline=None)
    @given(st.text())
    def test_is_escaped_as_the_reference_escapes_it(self, text: str) -> None:
        assert canonicalize(text).text == canonicalize([text]).text[1:-1] == rfc8785.dumps(text)

    def test_is_escaped_right_for_every_single_character(self) -> None:
        every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000)]))
        assert canonicalize(every).text == rfc8785.dumps(every)

    def test_is_taken_as_it_is_without_normalisation(self) -> None:
        assert canonicalize("\u00e9") != canonicalize("e\u0301")

    @pytest.mark.parametrize("value", ["\ud800", ["x", "\udc00"], {"a": "\ud83d"}])
    def test_with_a_lone_surrogate_is_refused(self, value: Any) -> None:
        with pytest.raises(InvalidInput, match="lone surrogate"):
            canonicalize(value)

    def test_with_a_lone_surrogate_is_refused_as_a_name_too(self) -> None:
        with pytest.raises(InvalidInput, match=r"^\$\.a has a member name that holds a lone surrogate"):
            canonicalize({"a": {"\ud800": 1}})


class TestObjects:
    def test_sort_their_members_by_utf16_code_units(self) -> None:
        """The example of RFC 8785 section 3.2.3; a sort by code points puts U+FB33 before U+1F600."""
        order = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
        text = canonicalize(dict.fromkeys(reversed(order), 0)).text
        assert list(json.loads(text)) == order

    @settings(deadline=None)
    @given(st.dictionaries(names, nested(json_scalars, 3), max_size=6), st.randoms())
    def test_do_not_depend_on_the_order_of_their_members(self, value: dict[str, Any], random: Any) -> None:
        members = list(value.items())
        random.shuffle(members)
        assert canonicalize(dict(members)) == canonicalize(value)

    @settings(deadline=None)
    @given(nested(json_scalars))
    def test_without_dollar_names_are_written_as_the_reference_writes_them(self, value: Any) -> None:
        if b'"$' not in rfc8785.dumps(value):
            assert canonicalize(value).text == rfc8785.dumps(value)

    def test_of_the_user_are_never_taken_for_a_leaf(self) -> None:
        leaf = json.loads(canonicalize(b"abc").text)
        assert canonicalize(leaf) != canonicalize(b"abc")
        assert back(leaf) == leaf
        assert back({"$$bytes": 1, "$": 2, "a$": 3}) == {"$$bytes": 1, "$": 2, "a$": 3}

    @pytest.mark.parametrize("name", [1, None, b"a", (1, 2), 1.5])
    def test_refuse_names_that_are_no_text(self, name: Any) -> None:
        with pytest.raises(InvalidInput, match=rf"^\$\[0\] has a member name of type {type(name).__name__}"):
            canonicalize([{"a": 1, name: 2}])


class TestBytesAndArrays:
    @pytest.mark.parametrize("like", [b"abc", bytearray(b"abc"), memoryview(b"abc"), np.bytes_(b"abc")])
    def test_all_bytes_likes_are_the_same_bytes(self, like: Any) -> None:
        digest = b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert canonicalize(like) == CanonicalInput(b'{"$bytes":"' + digest + b'"}', (b"abc",))
        assert type(back([like])[0]) is bytes

    def test_blobs_come_once_each_in_the_order_of_the_text(self) -> None:
        form = canonicalize({"b": b"two", "a": [b"one", np.frombuffer(b"two", "u1")], "c": b"one"})
        assert form.blobs == (b"one", b"two")

    def test_an_array_is_its_type_shape_and_elements(self) -> None:
        array = np.arange(6, dtype="f4").reshape(2, 3)
        forms = [array, array.reshape(3, 2), array.view("i4"), array.astype("f8"), array + 1, array.tobytes()]
        assert len({canonicalize(each) for each in forms}) == len(forms)

    def test_an_array_is_not_its_layout_in_memory(self) -> None:
        array = np.arange(6, dtype="<i2").reshape(2, 3)
        wide = np.zeros((2, 6), "<i2")
        wide[:, ::2] = array
        for same in (array.astype(">i2"), np.asfortranarray(array), wide[:, ::2]):
            assert canonicalize(same) == canonicalize(array)

    def test_an_array_comes_back_writable_and_owning_its_memory(self) -> None:
        first, second = back([np.zeros(3), np.zeros(3)])
        first[0] = 1
        assert second[0] == 0

    @pytest.mark.parametrize(
        "array",
        [
            np.array([None]),
            np.array(["a"]),
            np.array([b"a"]),
            np.array(["2020-01-01"], "datetime64[s]"),
            np.zeros(2, "i4,f4"),
            np.zeros(2, "longdouble"),
        ],
    )
    def test_arrays_of_other_elements_are_refused(self, array: Any) -> None:
        with pytest.raises(InvalidInput, match=r"^\$\.x is an array of .*; its dtype must be"):
            canonicalize({"x": array})

    def test_a_masked_array_is_refused_since_its_mask_would_be_lost(self) -> None:
        with pytest.raises(InvalidInput, match=r"numpy\.asarray"):
            canonicalize(np.ma.masked_array([1, 2], [True, False]))

    @pytest.mark.parametrize(
        ("scalar", "plain"),
        [
            (np.float32(0.1), float(np.float32(0.1))),
            (np.float64(0.1), 0.1),
            (np.int8(-3), -3),
            (np.uint64(7), 7),
            (np.bool_(1), True),
            (np.str_("a"), "a"),
        ],
    )
    def test_numpy_scalars_are_plain_values(self, scalar: Any, plain: Any) -> None:
        assert canonicalize(scalar) == canonicalize(plain)
        assert canonicalize([scalar]) == canonicalize([plain])

    @pytest.mark.parametrize(
        "scalar", [np.complex64(1), np.datetime64(1, "ns"), np.timedelta64(1, "ns"), np.longdouble(1), np.uint64(2**63)]
    )
    def test_numpy_scalars_that_json_cannot_hold_are_refused(self, scalar: Any) -> None:
        """`.item()` would silently make an integer of a datetime64 in nanoseconds."""
        with pytest.raises(InvalidInput):
            canonicalize(scalar)

    def test_numpy_is_imported_only_for_an_array(self) -> None:
        program = """
import sys
from foreseen.canonical import canonicalize, restore
form = canonicalize({"a": [b"x", 1, None, memoryview(b"y")]})
restore(form.text, form.blobs)
try:
    canonicalize(object())
except ValueError:
    pass
assert "numpy" not in sys.modules
"""
        subprocess.run([sys.executable, "-c", program], check=True)

    def test_an_array_where_numpy_is_missing_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        form = canonicalize(np.zeros(2))
        monkeypatch.setitem(sys.modules, "numpy", None)
        with pytest.raises(Misconfigured, match="install numpy"):
            restore(form.text, form.blobs)


class Pair(NamedTuple):
    x: int
    y: int


class Colour(str, enum.Enum):  # noqa: UP042 - the kind that is a str as well
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Person(pydantic.BaseModel):
    name: str
    born: dt.date | None = None
    picture: bytes = b""


class TestOtherTypes:
    def test_a_pydantic_model_is_its_json_dump(self) -> None:
        person = Person(name="x", born=dt.date(2000, 1, 2))
        assert canonicalize([person]) == canonicalize([{"name": "x", "born": "2000-01-02", "picture": ""}])

    def test_a_pydantic_model_that_json_cannot_hold_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match=r"^\$\[0\] is a Person that pydantic cannot write as JSON; send"):
            canonicalize([Person(name="x", picture=b"\xff")])

    @pytest.mark.parametrize(
        ("special", "plain"),
        [
            ((1, (2,)), [1, [2]]),
            (Pair(1, 2), [1, 2]),
            (OrderedDict(b=1, a=2), {"a": 2, "b": 1}),
            (type("Name", (str,), {"__str__": lambda _: "other"})("x"), "x"),
            (type("Count", (int,), {"__int__": lambda _: 4, "__repr__": lambda _: "5"})(3), 3),
            (type("Share", (float,), {"__repr__": lambda _: "other"})(0.5), 0.5),
        ],
    )
    def test_subclasses_are_what_they_hold(self, special: Any, plain: Any) -> None:
        assert canonicalize(special) == canonicalize(plain)

    @pytest.mark.parametrize(
        ("value", "fit"),
        [
            (Colour.RED, r"\.value"),
            (Level.LOW, r"\.value"),
            (dt.datetime.now(dt.UTC), r"\.isoformat\(\)"),
            ({1, 2}, r"sorted"),
            (frozenset(), r"sorted"),
            (1j, r"two floats"),
            (object(), r"send JSON values"),
            (map(str, []), r"send JSON values"),
        ],
    )
    def test_anything_else_is_refused_and_told_what_would_fit(self, value: Any, fit: str) -> None:
        with pytest.raises(InvalidInput, match=rf"^\$\.user\.ages\[3\] is .*{fit}"):
            canonicalize({"user": {"ages": [1, 2, 3, value]}})

    def test_names_that_are_no_identifiers_are_quoted_in_the_path(self) -> None:
        with pytest.raises(InvalidInput, match=r'^\$\["a b"\]\[0\]\.c is'):
            canonicalize({"a b": [{"c": {1}}]})

    def test_nesting_ends_at_its_limit_in_both_directions(self) -> None:
        deep: Any = []
        for level in range(MAX_NESTING - 1):
            deep = [deep] if level % 2 else {"a": deep}
        assert back(deep) == deep
        with pytest.raises(InvalidInput, match=f"nested deeper than {MAX_NESTING}"):
            canonicalize([deep])
        with pytest.raises(MalformedMessage, match=f"nested deeper than {MAX_NESTING}"):
            restore(b"[" + canonicalize(deep).text + b"]", ())

    def test_a_list_that_holds_itself_is_refused(self) -> None:
        endless: list[Any] = []
        endless.append(endless)
        with pytest.raises(InvalidInput, match="holds itself"):
            canonicalize(endless)


class TestRestore:
    @settings(deadline=None)
    @given(inputs)
    def test_gives_what_was_sent_by_the_rules(self, value: Any) -> None:
        assert told(back(value)) == told(value)

    @settings(deadline=None)
    @given(inputs)
    def test_gives_what_has_the_same_form(self, value: Any) -> None:
        """So an input that went through a worker and is submitted again is a hit."""
        assert canonicalize(back(value)) == canonicalize(value)

    @settings(deadline=None, max_examples=500)
    @given(near_inputs, near_inputs)
    def test_forms_are_equal_exactly_if_the_inputs_are(self, one: Any, other: Any) -> None:
        assert (canonicalize(one) == canonicalize(other)) == (told(one) == told(other))

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"{",
            b"1 2",
            b"NaN",
            b"[Infinity]",
            b"1e999",
            b"9" * 400,
            b"9" * 5000,
            b'"\xff"',
            b'"\\ud800"',
            b'{"\\ud800":1}',
            b"[" * 100_000,
            b'{"$other":1}',
            b'{"$bytes":1}',
            b'{"$bytes":"00","a":1}',
            b'{"$":1}',
            b'{"$array":[]}',
            b'{"$array":{"dtype":"<f4","shape":[1]}}',
        ],
        ids=lambda text: text[:20].decode("latin-1"),
    )
    def test_refuses_text_that_is_no_canonical_input(self, text: bytes) -> None:
        with pytest.raises(MalformedMessage):
            restore(text, ())

    def test_refuses_a_leaf_with_company(self) -> None:
        leaf = canonicalize(b"abc").text
        with pytest.raises(MalformedMessage, match="misshapen"):
            restore(leaf[:-1] + b',"a":1}', (b"abc",))

    @pytest.mark.parametrize("blobs", [(), (b"abd",), (b"abc", b"more"), (b"abc", b"abc")])
    def test_refuses_blobs_that_are_not_those_named(self, blobs: tuple[bytes, ...]) -> None:
        with pytest.raises(MalformedMessage, match="blob"):
            restore(canonicalize([b"abc", b"abc"]).text, blobs)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b'"<f4"', b'"<f8"'),
            (b'"<f4"', b'"|O8"'),
            (b'"<f4"', b"[]"),
            (b"[2,3]", b"[2,4]"),
            (b"[2,3]", b"[-2,-3]"),
            (b"[2,3]", b"[6.0]"),
            (b"[2,3]", b"[true,6]"),
            (b"[2,3]", b"6"),
            (b"[2,3]", b'"6"'),
            (b"[2,3]", b"[" + b"1," * 70 + b"6]"),
        ],
    )
    def test_refuses_arrays_whose_parts_do_not_fit(self, old: bytes, new: bytes) -> None:
        form = canonicalize(np.zeros((2, 3), "f4"))
        with pytest.raises(MalformedMessage):
            restore(form.text.replace(old, new), form.blobs)

    def test_refuses_an_empty_array_of_an_impossible_shape(self) -> None:
        form = canonicalize(np.zeros(0))
        with pytest.raises(MalformedMessage):
            restore(form.text.replace(b"[0]", b"[0,4611686018427387904,4611686018427387904]"), form.blobs)

    @settings(deadline=None, max_examples=300)
    @given(inputs, st.data())
    def test_of_changed_bytes_gives_a_value_or_that_error(self, value: Any, data: st.DataObject) -> None:
        form = canonicalize(value)
        text = bytearray(form.text)
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(MalformedMessage):
            restore(bytes(text), form.blobs)
