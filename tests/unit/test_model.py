from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import jsonschema_rs
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel, Field, field_validator
from typing_extensions import TypedDict

from foreseen.canonical import canonicalize
from foreseen.errors import InputRefused, InvalidOutput, Misconfigured
from workers import Batching, CachePolicy, FailureExpiry, Model, Stage
from workers.model import _all_files_of

T = TypeVar("T")


class Point(BaseModel):
    x: float
    y: float = 0.0


class Photo(BaseModel):
    pixels: bytes
    tags: list[str] = []
    owner: Point | None = None


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Secretive(BaseModel):
    pin: str

    @field_validator("pin")
    @classmethod
    def _four_digits(cls, pin: str) -> str:
        if len(pin) != 4:
            raise ValueError(f"{pin} is not a PIN")
        return pin


Dollars = TypedDict("Dollars", {"$ref": int})


def model_of(input_type: Any, output_type: Any = Any) -> type[Model[Any, Any]]:
    """Make a model of these types that gives back what it gets."""

    class Mirror(Model[input_type, output_type]):
        name = "mirror"
        version = "1"

        def predict(self, batch: Sequence[Any]) -> Sequence[Any]:
            return batch

    return Mirror


class TestPolicies:
    def test_have_the_documented_defaults(self) -> None:
        assert CachePolicy() == CachePolicy(expiry_s=600.0, jitter=0.1, failure_expiry_s=FailureExpiry(), near=True)
        assert FailureExpiry() == FailureExpiry(permanent_s=5.0, transient_s=1.0, poison_s=60.0)
        assert Batching() == Batching(max_batch_size=32)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"expiry_s": -1},
            {"expiry_s": float("nan")},
            {"expiry_s": float("inf")},
            {"expiry_s": "600"},
            {"jitter": 1},
            {"jitter": -0.1},
            {"failure_expiry_s": -1},
            {"failure_expiry_s": True},
            {"failure_expiry_s": (5, 1, 60)},
            {"compress_above_bytes": -1},
            {"compress_above_bytes": 4096.0},
            {"compress_above_bytes": True},
            {"near": 0},
            {"near": "no"},
        ],
    )
    def test_a_wrong_cache_policy_is_refused_by_the_name_of_its_field(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(Misconfigured, match=next(iter(wrong))):
            CachePolicy(**wrong)

    @pytest.mark.parametrize("kind", ["permanent_s", "transient_s", "poison_s"])
    @pytest.mark.parametrize("wrong", [-1, True, "5", float("nan"), None])
    def test_a_wrong_expiry_of_failures_is_refused_by_its_kind(self, kind: str, wrong: Any) -> None:
        with pytest.raises(Misconfigured, match=kind):
            FailureExpiry(**{kind: wrong})

    def test_compression_needs_its_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("workers.policies.find_spec", lambda _: None)
        assert CachePolicy().compress_above_bytes is None
        with pytest.raises(Misconfigured, match=r"foreseen\[compression\]"):
            CachePolicy(compress_above_bytes=4096)

    def test_one_number_stands_for_every_kind_of_failure(self) -> None:
        assert CachePolicy(failure_expiry_s=2).failures == FailureExpiry(2, 2, 2)
        assert CachePolicy().failures == FailureExpiry()

    @pytest.mark.parametrize("size", [0, -1, 1.5, True, "8"])
    def test_a_wrong_batch_size_is_refused(self, size: Any) -> None:
        with pytest.raises(Misconfigured, match="max_batch_size"):
            Batching(max_batch_size=size)

    @pytest.mark.parametrize("wait_s", [-0.1, True, "1", float("inf"), None])
    def test_a_wrong_longest_wait_is_refused(self, wait_s: Any) -> None:
        with pytest.raises(Misconfigured, match="max_wait_s"):
            Batching(max_wait_s=wait_s)

    def test_zero_seconds_keep_nothing_and_are_allowed(self) -> None:
        assert CachePolicy(expiry_s=0, failure_expiry_s=0).expiry_s == 0


class TestDefinition:
    def test_input_and_output_types_come_from_the_type_arguments(self) -> None:
        mirror = model_of(bytes, Point)
        assert (mirror.input_type, mirror.output_type) == (bytes, Point)
        assert mirror.model_id() == "mirror@1"
        assert mirror.is_complete()

    def test_a_subclass_inherits_the_types(self) -> None:
        class Other(model_of(bytes, Point)):  # type: ignore[misc]
            name = "other"

        assert (Other.input_type, Other.output_type) == (bytes, Point)
        assert Other.model_id() == "other@1"

    def test_a_generic_base_is_no_model_and_passes_its_types_on(self) -> None:
        class Listed(Model[T, list[T]], Generic[T]):
            name = "listed"

            def predict(self, batch: Sequence[T]) -> list[list[T]]:
                return [[one] for one in batch]

        class Numbers(Listed[int]):
            version = "1"

        assert not Listed.is_complete()
        assert Numbers.is_complete()
        assert (Numbers.input_type, Numbers.output_type) == (int, list[int])

    def test_a_class_without_type_arguments_is_refused(self) -> None:
        with pytest.raises(Misconfigured, match="what goes in and what comes out"):
            type("Untyped", (Model,), {})

    @pytest.mark.parametrize("attributes", [{"name": "Not A Name"}, {"name": 3}, {"version": "a:b"}, {"version": ""}])
    def test_a_wrong_name_or_version_is_refused_where_the_class_is_defined(self, attributes: dict[str, Any]) -> None:
        with pytest.raises(Misconfigured, match="class Wrong"):
            type("Wrong", (model_of(bytes),), attributes)

    @pytest.mark.parametrize("attributes", [{"cache": 600}, {"batching": 32}])
    def test_a_policy_of_another_type_is_refused(self, attributes: dict[str, Any]) -> None:
        with pytest.raises(Misconfigured, match=next(iter(attributes))):
            type("Wrong", (model_of(bytes),), attributes)

    def test_a_class_without_a_name_or_a_predict_is_no_model(self) -> None:
        class Nameless(Model[bytes, bytes]):
            def predict(self, batch: Sequence[bytes]) -> Sequence[bytes]:
                return batch

        class Idle(Model[bytes, bytes]):
            name = "idle"

        assert not Nameless.is_complete()
        assert not Idle.is_complete()


MODULE = """
from workers import Model

class Weighed(Model[bytes, bytes]):
    name = "weighed"
    files = ("weights.bin",)

    def predict(self, batch):
        return batch
"""

Write = Callable[[str, str, bytes], type[Model[Any, Any]]]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes a model's files into a folder and imports it from there."""

    def write(folder: str, text: str, weights: bytes) -> type[Model[Any, Any]]:
        path = tmp_path / folder / "weighed.py"
        path.parent.mkdir()
        path.write_text(text)
        path.with_name("weights.bin").write_bytes(weights)
        spec = spec_from_file_location(f"weighed_in_{folder}", path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        cls: type[Model[Any, Any]] = module.Weighed
        return cls

    return write


class TestVersionOfFiles:
    def test_is_the_same_wherever_the_files_lie(self, write: Write) -> None:
        one, other = write("here", MODULE, b"w"), write("there", MODULE, b"w")
        assert one.version == other.version
        assert len(one.version) == 12
        assert one().version == one.version

    def test_is_another_for_other_weights_or_other_code(self, write: Write) -> None:
        versions = [
            write("a", MODULE, b"w").version,
            write("b", MODULE, b"v").version,
            write("c", MODULE + "\n", b"w").version,
        ]
        assert len(set(versions)) == 3

    def test_names_a_file_that_is_missing(self, write: Write, tmp_path: Path) -> None:
        weighed = write("here", MODULE, b"w")
        (tmp_path / "here" / "weights.bin").unlink()
        with pytest.raises(Misconfigured, match=r"Weighed.*weights\.bin"):
            _ = weighed.version

    def test_is_of_the_files_of_bases_too_those_of_foreseen_included(self) -> None:
        """Which docs/upgrading.md warns of: another release may change them."""

        class Letters(Stage[bytes, str]):
            name = "letters"

        assert {path.name for path in _all_files_of(Letters)} == {Path(__file__).name, "stage.py"}

    def test_asks_for_a_version_where_there_is_no_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Typed(Model[bytes, bytes]):
            name = "typed"

        monkeypatch.setattr(Typed, "__module__", "typed_at_a_prompt")
        with pytest.raises(Misconfigured, match="give the class a version"):
            _ = Typed.version


class TestValues:
    def test_an_input_becomes_an_instance_of_its_type(self) -> None:
        assert model_of(Point).validate_input({"x": 1}) == Point(x=1.0)
        assert model_of(Photo).validate_input({"pixels": b"\xff"}) == Photo(pixels=b"\xff")

    def test_a_refusal_says_where_and_what_would_fit_and_does_not_quote_the_input(self) -> None:
        with pytest.raises(InputRefused) as refused:
            model_of(list[Point]).validate_input([{"x": 1}, {"x": "hunter2"}])
        assert "mirror@1: $[1].x: Input should be a valid number" in refused.value.message
        assert "hunter2" not in json.dumps(refused.value.to_wire())
        assert refused.value.details["errors"][0]["loc"] == [1, "x"]

    @pytest.mark.parametrize(
        ("hint", "value"),
        [
            (Secretive, {"pin": "hunter2"}),
            (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "hunter2"}),
            (bytes, "hunter2"),
        ],
    )
    def test_no_kind_of_refusal_quotes_the_input(self, hint: Any, value: Any) -> None:
        with pytest.raises(InputRefused) as refused:
            model_of(hint).validate_input(value)
        assert "hunter2" not in json.dumps(refused.value.to_wire())

    def test_of_many_errors_the_first_few_are_told(self) -> None:
        with pytest.raises(InputRefused, match="and 95 more"):
            model_of(list[int]).validate_input(["x"] * 100)

    def test_a_model_of_bytes_refuses_a_text_which_is_nearly_always_a_path(self) -> None:
        with pytest.raises(InputRefused, match="valid bytes"):
            model_of(bytes).validate_input("photo.png")

    def test_arrays_go_in_and_out_as_they_are(self) -> None:
        array = np.zeros((2, 3), np.float32)
        for hint in (np.ndarray, npt.NDArray[np.float32]):
            assert model_of(hint).validate_input(array) is array
            assert model_of(hint, dict[str, hint]).dump_output({"a": array})["a"] is array  # type: ignore[valid-type]
            with pytest.raises(InputRefused):
                model_of(hint).validate_input([1, 2])

    def test_an_output_comes_as_plain_values(self) -> None:
        photo = Photo(pixels=b"\xff", owner=Point(x=1))
        plain = {"pixels": b"\xff", "tags": [], "owner": {"x": 1.0, "y": 0.0}}
        assert model_of(bytes, Photo).dump_output(photo) == plain
        assert model_of(bytes, Photo).dump_output({"pixels": b"\xff", "owner": {"x": 1}}) == plain

    def test_an_output_that_does_not_fit_its_type_is_invalid_and_not_quoted(self) -> None:
        with pytest.raises(InvalidOutput, match=r"mirror@1 does not fit its type: \$\.x") as invalid:
            model_of(bytes, Point).dump_output({"x": "hunter2"})
        assert "hunter2" not in str(invalid.value)


FITTING: list[tuple[Any, Any]] = [
    (bytes, b"abc"),
    (str, "abc"),
    (int, 3),
    (int, 3.0),
    (float, 3),
    (bool, True),
    (dict[str, Any], {"a": b"x", "b": [np.zeros(2)]}),
    (dict[str, Any], {"$bytes": "a member of that name"}),
    (list[bytes], [b"a", "text"]),
    (Photo, {"pixels": b"\x00", "tags": ["a"], "owner": {"x": 1}}),
    (Photo, {"pixels": b"\x00", "unknown": 1}),
    (Dollars, {"$ref": 1}),
    (np.ndarray, np.zeros((2, 2))),
    (npt.NDArray[np.float32], np.zeros(3, np.float32)),
    (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "cat"}),
    (Any, {"a": [1, b"x", None]}),
]
REFUSED: list[tuple[Any, Any]] = [
    (bytes, "abc"),
    (bytes, {"a": 1}),
    (bytes, np.zeros(2)),
    (str, 3),
    (int, 3.5),
    (int, b"x"),
    (float, "abc"),
    (bool, 3),
    (dict[str, Any], b"abc"),
    (dict[str, Any], np.zeros(2)),
    (dict[str, int], {"a": b"x"}),
    (list[bytes], [1]),
    (Photo, {"tags": []}),
    (Photo, {"pixels": 1}),
    (Photo, b"abc"),
    (Dollars, {"ref": 1}),
    (np.ndarray, b"abc"),
    (np.ndarray, [1.0]),
    (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "cow"}),
]


class TestSchemas:
    @pytest.mark.parametrize(("hint", "value"), FITTING)
    def test_what_fits_the_type_fits_the_schema(self, hint: Any, value: Any) -> None:
        mirror = model_of(hint)
        mirror.validate_input(value)
        jsonschema_rs.validate(mirror.input_schema(), json.loads(canonicalize(value).text))

    @pytest.mark.parametrize(("hint", "value"), REFUSED)
    def test_what_the_type_refuses_the_schema_refuses(self, hint: Any, value: Any) -> None:
        mirror = model_of(hint)
        with pytest.raises(InputRefused):
            mirror.validate_input(value)
        assert not jsonschema_rs.is_valid(mirror.input_schema(), json.loads(canonicalize(value).text))

    def test_an_object_whose_members_may_all_be_missing_takes_no_bytes(self) -> None:
        class Options(BaseModel):
            size: int = 1

        leaf = json.loads(canonicalize(b"abc").text)
        assert not jsonschema_rs.is_valid(model_of(Options).input_schema(), leaf)

    def test_bytes_come_out_as_bytes_alone(self) -> None:
        assert model_of(bytes, list[bytes]).output_schema()["items"]["required"] == ["$bytes"]

    def test_what_json_schema_cannot_say_takes_everything(self) -> None:
        assert model_of(Path, Callable[[], int]).output_schema() == {}

    def test_schemas_are_json(self) -> None:
        json.dumps(model_of(Photo, Point).input_schema() | model_of(Photo, Point).output_schema())


class Halved(Stage[int, float]):
    name = "halved"
    version = "1"

    def prepare(self, batch: Sequence[int]) -> list[float]:
        return [one / 2 for one in batch]


class HalvedAgain(Halved):
    version = "2"


class Over(Model[float, str]):
    name = "over"
    version = "7"
    preprocess = Halved

    def predict(self, batch: Sequence[float]) -> list[str]:
        return [str(one) for one in batch]


class TestStages:
    def test_a_stage_is_a_model_of_a_name_that_no_other_may_have(self) -> None:
        assert Halved.model_id() == "stage.halved@1"
        with pytest.raises(Misconfigured, match="of stages alone"):
            type("Posing", (Over,), {"name": "stage.halved"})

    def test_its_name_and_version_are_part_of_the_model_s_version(self) -> None:
        class Newer(Over):
            preprocess = HalvedAgain

        class Plain(Over):
            preprocess = None

        assert Over.version.startswith("7+")
        assert Newer.version.startswith("7+")
        assert len({Over.version, Newer.version, Plain.version}) == 3
        assert Plain.version == "7"

    def test_so_they_are_of_a_version_by_digest(self, tmp_path: Path) -> None:
        del tmp_path

        class ByDigest(Model[float, str]):
            name = "by-digest"

            def predict(self, batch: Sequence[float]) -> list[str]:
                return [str(one) for one in batch]

        class OverHalved(ByDigest):
            preprocess = Halved

        class OverAgain(ByDigest):
            preprocess = HalvedAgain

        assert len({ByDigest.version, OverHalved.version, OverAgain.version}) == 3
        assert OverHalved.version.partition("+")[0] == ByDigest.version

    def test_producers_send_what_the_stage_takes_and_predict_gets_what_it_gives(self) -> None:
        assert Over.input_schema() == Halved.input_schema()
        assert Over.validate_input(1.5) == 1.5

    @pytest.mark.parametrize("wrong", [Halved(), Over, Stage, "halved"])
    def test_anything_but_the_class_of_a_stage_is_refused(self, wrong: Any) -> None:
        with pytest.raises(Misconfigured, match="preprocess must be the class of a stage"):
            type("Wrong", (Over,), {"preprocess": wrong})

    def test_a_stage_over_a_stage_is_refused(self) -> None:
        with pytest.raises(Misconfigured, match="a stage has no preprocess"):
            type("Twice", (Halved,), {"preprocess": Halved})

    def test_what_is_computed_apart_must_be_kept(self) -> None:
        with pytest.raises(Misconfigured, match="expiry_s above 0"):
            type("Lost", (Halved,), {"apart": True, "cache": CachePolicy(expiry_s=0)})
