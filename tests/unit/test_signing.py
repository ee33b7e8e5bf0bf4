from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from pydantic import ValidationError

from foreseen.canonical import canonicalize
from foreseen.entry import Entry, Kind, encode_body, failure_body, payload_of, result_body
from foreseen.errors import MalformedEntry, MalformedMessage, Misconfigured, ModelFailed
from foreseen.keys import Key, key_of
from foreseen.message import Item, Message
from foreseen.settings import Settings
from foreseen.signing import HEADER, Keyring

OLD, NEW = "old-secret-" + "o" * 32, "new-secret-" + "n" * 32
KEY = key_of("model", "1", canonicalize(1))
OTHER = key_of("model", "1", canonicalize(2))
RING = Keyring.read(f"old:{OLD}")


def entry_of(body: bytes, kind: Kind = Kind.RESULT) -> Entry:
    return Entry(kind, b"generatn", 7, 1, 2, 5, payload_of(body))


def signed(ring: Keyring = RING) -> tuple[dict[str, Any], bytes]:
    canonical = canonicalize("input")
    message = Message("model@1", (Item(KEY, "0" * 16, 1, 0, canonical),), 1, 4)
    body, headers = message.body(), message.headers()
    headers[HEADER] = ring.sign_message(headers, body)
    return headers, body


class TestEntries:
    def test_one_that_was_sealed_opens_as_it_was(self) -> None:
        for body, kind in ((result_body({"a": 1}), Kind.RESULT), (failure_body(ModelFailed("no")), Kind.FAILURE)):
            sealed = RING.seal(KEY, kind, body)
            assert encode_body(payload_of(sealed)) == sealed, "under a checksum of its own"
            assert RING.open(KEY, entry_of(sealed, kind)) == entry_of(body, kind)

    def test_it_opens_for_no_other_key_and_no_other_kind(self) -> None:
        sealed = RING.seal(KEY, Kind.RESULT, result_body(1))
        for key, kind in ((OTHER, Kind.RESULT), (Key("model", "2", KEY.digest), Kind.RESULT), (KEY, Kind.FAILURE)):
            with pytest.raises(MalformedEntry):
                RING.open(key, entry_of(sealed, kind))

    def test_no_byte_of_it_can_be_changed(self) -> None:
        payload = payload_of(RING.seal(KEY, Kind.RESULT, result_body({"a": 1})))
        for place in range(len(payload)):
            changed = payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]
            with pytest.raises(MalformedEntry):
                RING.open(KEY, entry_of(encode_body(changed)))
            with pytest.raises(MalformedEntry):
                RING.open(KEY, entry_of(encode_body(payload[:place])))

    def test_one_that_is_not_sealed_is_refused(self) -> None:
        with pytest.raises(MalformedEntry, match="not signed"):
            RING.open(KEY, entry_of(result_body(1)))

    def test_who_has_no_keys_takes_a_sealed_one_for_a_miss(self) -> None:
        with pytest.raises(MalformedEntry):
            entry_of(RING.seal(KEY, Kind.RESULT, result_body(1))).outcome()


class TestMessages:
    def test_one_that_was_signed_passes(self) -> None:
        RING.check_message(*signed())

    @pytest.mark.parametrize("name", ["id", "task", "due_s", HEADER])
    def test_no_header_that_counts_can_be_changed(self, name: str) -> None:
        headers, body = signed()
        for value in ("other", 7, f"old:{'0' * 64}", f"old:{'é' * 64}", "none:", ":"):
            with pytest.raises(MalformedMessage):
                RING.check_message(headers | {name: value}, body)

    def test_no_byte_of_the_body_can_be_changed(self) -> None:
        headers, body = signed()
        for place in range(len(body)):
            with pytest.raises(MalformedMessage):
                RING.check_message(headers, body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :])

    def test_one_that_is_not_signed_is_refused(self) -> None:
        headers, body = signed()
        del headers[HEADER]
        with pytest.raises(MalformedMessage, match="FORESEEN_SIGNING_KEYS"):
            RING.check_message(headers, body)


class TestRotation:
    def test_keys_change_without_a_gap(self) -> None:
        """New as the second everywhere; then first; then the old one goes."""
        steps = [f"old:{OLD}", f"old:{OLD},new:{NEW}", f"new:{NEW},old:{OLD}", f"new:{NEW}"]
        rings = [Keyring.read(step) for step in steps]
        for here, there in itertools.pairwise(rings):  # two steps are live at a time
            for writer, reader in ((here, there), (there, here)):
                reader.check_message(*signed(writer))
                reader.open(KEY, entry_of(writer.seal(KEY, Kind.RESULT, result_body(1))))
        with pytest.raises(MalformedEntry):
            rings[3].open(KEY, entry_of(rings[0].seal(KEY, Kind.RESULT, result_body(1))))


class TestSettings:
    @pytest.mark.parametrize(
        "text",
        [
            OLD, f":{OLD}", f"a b:{OLD}", f"old:{OLD},old:{NEW}", "old:" + "short-secret", f"old:{OLD},",
            f"old:{OLD[:20]} {OLD[20:]}", f"{'x' * 33}:{OLD}",
        ],
    )  # fmt: skip
    def test_what_is_no_key_is_refused_and_not_shown(self, text: str) -> None:
        with pytest.raises(Misconfigured, match="FORESEEN_SIGNING_KEYS") as raised:
            Settings(signing_keys=text)  # type: ignore[arg-type]
        shown = str(raised.value) + repr(raised.value)
        for secret in (OLD, NEW, OLD[:20], "short-secret"):
            assert secret not in shown

    def test_nothing_shows_a_secret(self) -> None:
        settings = Settings(signing_keys=f"old:{OLD}")  # type: ignore[arg-type]
        shown = [repr(settings), str(settings), repr(settings.keyring()), str(settings.model_dump())]
        shown.append(json.dumps(settings.model_dump(mode="json")))
        assert [text for text in shown if OLD in text] == []
        assert settings.keyring().sign_message({}, b"") == Keyring.read(f"old:{OLD}").sign_message({}, b"")

    def test_an_error_in_another_setting_does_not_show_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORESEEN_SIGNING_KEYS", f"old:{OLD}")
        with pytest.raises(ValidationError) as raised:
            Settings(lease_s=-1)
        assert OLD not in str(raised.value) + repr(raised.value.errors(include_input=False))

    def test_without_one_there_are_no_keys(self) -> None:
        assert not Settings().keyring()
        assert not Settings(signing_keys="").keyring()  # type: ignore[arg-type]
