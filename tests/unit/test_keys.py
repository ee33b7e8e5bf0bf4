from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from foreseen import keys
from foreseen.canonical import CanonicalInput, canonicalize, restore
from foreseen.errors import InvalidInput, InvalidKey, Misconfigured
from foreseen.keys import BUCKETS, Key, KeySpace, check_model_name, check_version, digest_of, key_of, split_model

GOLDEN: list[dict[str, Any]] = json.loads(Path(__file__).with_name("golden_keys.json").read_text("utf-8"))
DIGEST = "0123456789abcdef0123456789abcdef01234567"
KEY = Key("file-type", "standard_v3_3", DIGEST)

model_names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,99}", fullmatch=True)
versions = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", fullmatch=True)


def build(description: Any) -> Any:
    """Build the input that a golden vector describes."""
    if not isinstance(description, dict):
        return description
    ((kind, value),) = description.items()
    match kind:
        case "float":
            return float(value)
        case "list":
            return [build(item) for item in value]
        case "object":
            return {name: build(item) for name, item in value}
        case "bytes":
            return bytes.fromhex(value)
        case "array":
            return np.frombuffer(bytes.fromhex(value["hex"]), value["dtype"]).reshape(value["shape"])
    raise AssertionError(kind)


def slow_form(value: Any) -> Any:
    """Return a value in JSON's own types alone, by the rules as `foreseen.canonical` words them."""
    if isinstance(value, dict):
        return {"$" + name if name.startswith("$") else name: slow_form(item) for name, item in value.items()}
    if isinstance(value, list):
        return [slow_form(item) for item in value]
    if isinstance(value, bytes):
        return {"$bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, np.ndarray):
        little = value.astype(value.dtype.newbyteorder("<"))
        digest = hashlib.sha256(little.tobytes("C")).hexdigest()
        return {"$array": {"shape": list(value.shape), "dtype": little.dtype.str, "sha256": digest}}
    return value


class TestGoldenVectors:
    """A frozen file: a changed digest forgets every entry of every deployment, so it is a decision, not an accident."""

    @pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["why"])
    def test_hold(self, vector: dict[str, Any]) -> None:
        form = canonicalize(build(vector["input"]))
        assert form == CanonicalInput(vector["text"].encode(), tuple(map(bytes.fromhex, vector["blobs"])))
        assert digest_of(vector["model"], vector["version"], form.text) == vector["digest"]

    @pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["why"])
    def test_hold_by_a_slow_and_plain_computation(self, vector: dict[str, Any]) -> None:
        text = rfc8785.dumps(slow_form(build(vector["input"])))
        line = f"foreseen-key-1\n{vector['model']}@{vector['version']}\n"
        assert text.decode() == vector["text"]
        assert hashlib.sha256(line.encode() + text).hexdigest()[:40] == vector["digest"]

    @pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["why"])
    def test_are_given_back_in_the_same_form(self, vector: dict[str, Any]) -> None:
        value = restore(vector["text"].encode(), [bytes.fromhex(blob) for blob in vector["blobs"]])
        assert canonicalize(value).text.decode() == vector["text"]

    def test_have_equal_digests_only_where_the_rules_say_so(self) -> None:
        by_digest: dict[str, list[str]] = {}
        for vector in GOLDEN:
            by_digest.setdefault(vector["digest"], []).append(vector["why"])
        assert [together for together in by_digest.values() if len(together) > 1] == [
            ["zero", "minus zero is zero"],
            ["an integer", "a float without a fraction is that integer"],
            ["members in one order", "members in the other order are the same object"],
            ["an array", "its byte order does not"],
        ]


class TestDigest:
    @settings(deadline=None)
    @given(
        st.tuples(model_names, versions, st.binary(max_size=9)), st.tuples(model_names, versions, st.binary(max_size=9))
    )
    def test_differs_with_model_version_and_text(
        self, one: tuple[str, str, bytes], other: tuple[str, str, bytes]
    ) -> None:
        assert (digest_of(*one) == digest_of(*other)) == (one == other)

    def test_is_the_same_however_many_models_were_asked_for_between(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The hashers that are kept per model are bounded, and none is changed by its use."""
        monkeypatch.setattr(keys, "_MAX_PREFIXES", 2)
        before = [digest_of(f"m{number}", "1", b"x") for number in range(5)]
        assert [digest_of(f"m{number}", "1", b"x") for number in range(5)] == before
        assert len(keys._prefixes) <= 2

    @pytest.mark.parametrize(("model", "version"), [("a@b", "1"), ("a\n", "1"), ("a", "1\nx"), ("a", "1@2"), ("", "1")])
    def test_is_refused_where_name_and_text_could_run_together(self, model: str, version: str) -> None:
        with pytest.raises(InvalidInput):
            digest_of(model, version, b"x")


class TestKey:
    def test_is_model_version_and_digest(self) -> None:
        key = key_of("file-type", "v1", canonicalize("abc"))
        digest = digest_of("file-type", "v1", b'"abc"')
        assert str(key) == f"file-type@v1:{digest}"
        assert (key.model_id, key.bucket, key.short) == (
            "file-type@v1",
            key.digest[:2],
            str(key)[: len("file-type@v1:") + 8],
        )

    def test_has_160_bits(self) -> None:
        assert len(digest_of("a", "1", b"")) == 40

    @settings(deadline=None)
    @given(model_names, versions, st.from_regex(r"[0-9a-f]{40}", fullmatch=True))
    def test_is_read_as_it_is_written(self, model: str, version: str, digest: str) -> None:
        key = Key(model, version, digest)
        assert Key.parse(str(key)) == key

    @pytest.mark.parametrize(
        ("text", "right"),
        [
            ("", "model@version:digest"),
            ("file-type", "model@version:digest"),
            (f"file-type:{DIGEST}", "model@version:digest"),
            ("file-type@1", "model@version:digest"),
            ("file-type@1:0123abcd", "40 digits"),
            (f"file-type@1:{DIGEST.upper()}", "a-f"),
            (f"file-type@1:{DIGEST}\n", "40 digits"),
            (f"File@1:{DIGEST}", "model name"),
            (f"file@:{DIGEST}", "version"),
            (f"file@1@2:{DIGEST}", "version"),
        ],
    )
    def test_that_is_none_is_refused_and_told_what_would_be(self, text: str, right: str) -> None:
        with pytest.raises(InvalidKey, match=right):
            Key.parse(text)


class TestNames:
    @pytest.mark.parametrize("name", ["a", "0", "file-type", "a.b_c-d", "a" * 100])
    def test_of_models_are_returned(self, name: str) -> None:
        assert check_model_name(name) == name

    @pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a b", "ä", "a@1", "a:b", "a{b", "a\n", "a" * 101])
    def test_that_are_none_are_refused(self, name: str) -> None:
        with pytest.raises(InvalidInput, match="begins with a letter or digit"):
            check_model_name(name)

    @pytest.mark.parametrize("version", ["1", "standard_v3_3", "1.0+cu12", "V1", "a" * 100])
    def test_of_versions_are_returned(self, version: str) -> None:
        assert check_version(version) == version

    @pytest.mark.parametrize("version", ["", "_1", "+1", "1 2", "1@2", "1:2", "1}2", "1\n", "a" * 101])
    def test_that_are_no_versions_are_refused(self, version: str) -> None:
        with pytest.raises(InvalidInput, match="begins with a letter or digit"):
            check_version(version)

    def test_with_or_without_a_version_are_split(self) -> None:
        assert split_model("file-type") == ("file-type", None)
        assert split_model("file-type@v1") == ("file-type", "v1")
        for wrong in ("", "@1", "file-type@", "a@b@c"):
            with pytest.raises(InvalidInput):
                split_model(wrong)


class TestKeySpace:
    """Every name that reaches a server, as `docs/` lists them."""

    SPACE = KeySpace("ns")
    TAG = "{file-type@standard_v3_3:01}"

    def test_names_what_is_kept_for_a_key_in_the_slot_of_its_bucket(self) -> None:
        space, tag = self.SPACE, self.TAG
        assert space.generation(KEY) == space.generation_of(KEY.model_id, KEY.bucket) == f"ns:g:{tag}"
        assert space.clock(KEY) == space.clock_of(KEY.model_id, KEY.bucket) == f"ns:c:{tag}"
        assert space.statistics(KEY) == space.statistics_of(KEY.model_id, KEY.bucket) == f"ns:s:{tag}"
        assert space.entry(KEY) == f"ns:e:{tag}:{DIGEST}"
        assert space.flight(KEY) == f"ns:f:{tag}:{DIGEST}"
        assert space.outcomes(KEY) == f"ns:o:{tag}:{DIGEST}"
        assert space.ends(KEY) == f"ns:x:{tag}:{DIGEST}"
        assert space.invalidated(KEY) == f"ns:i:{tag}:{DIGEST}"
        assert space.deaths(KEY) == f"ns:d:{tag}:{DIGEST}"

    def test_names_what_belongs_to_no_key(self) -> None:
        space = self.SPACE
        assert space.inbox("n0nce") == "ns:inbox:n0nce"
        assert space.watermark("ns.a@1", 9) == "ns:w:{ns.a@1:9}"
        assert space.card("a@1") == "ns:card:a@1"
        assert space.current("a") == "ns:current:a"
        assert space.models() == "ns:models"
        assert space.queue("a@1") == "ns.a@1"

    def test_has_256_buckets(self) -> None:
        assert tuple(bytes([number]).hex() for number in range(256)) == BUCKETS
        assert KEY.bucket in BUCKETS

    @pytest.mark.parametrize("namespace", ["", "A", "a:b", "a{b", "-a", "a" * 32, "a\n"])
    def test_refuses_a_namespace_that_could_be_taken_for_a_key(self, namespace: str) -> None:
        with pytest.raises(Misconfigured, match="namespace"):
            KeySpace(namespace)
