from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any
from zlib import crc32

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreseen.entry import (
    HEADER_BYTES,
    LARGEST_HEADER_BYTES,
    LAYOUT,
    Entry,
    Kind,
    Refreshing,
    encode_body,
    failure_body,
    outcome_in,
    result_body,
)
from foreseen.errors import MalformedEntry, ModelFailed, PredictionFailed
from foreseen.outcome import Failure, Result
from foreseen.payload import pack


def entry(payload: bytes = b"\x01", kind: Kind = Kind.RESULT, **changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "generation": b"generatn",
        "order": 7,
        "written_ms": 1_700_000_000_000,
        "fresh_until_ms": 1_700_000_600_000,
        "cost_us": 5_000,
    }
    return Entry(kind=kind, payload=payload, **(fields | changes))


counts = st.integers(0, 2**64 - 1)
entries = st.builds(
    Entry,
    kind=st.sampled_from(Kind),
    generation=st.binary(min_size=8, max_size=8),
    order=counts,
    written_ms=counts,
    fresh_until_ms=counts,
    cost_us=st.integers(0, 2**32 - 1),
    payload=st.binary(max_size=30),
    codec=st.sampled_from((1, 2)),
    refreshing=st.none() | st.builds(Refreshing, st.integers(0, 2**32 - 1), counts),
)


class TestLayout:
    """What the server's scripts and other releases rely on, byte by byte."""

    def test_is_the_one_that_the_module_documents(self) -> None:
        payload = pack({"label": "pdf"})
        expected = bytes([1, ord("R"), 1]) + b"generatn"
        expected += (7).to_bytes(8) + (1_700_000_000_000).to_bytes(8) + (1_700_000_600_000).to_bytes(8)
        expected += (5_000).to_bytes(4) + crc32(payload).to_bytes(4) + payload
        assert entry(payload).encode() == expected
        assert (LAYOUT, HEADER_BYTES) == (1, 43)

    def test_of_one_that_is_refreshed_says_when(self) -> None:
        payload = pack({"label": "pdf"})
        plain = entry(payload).encode()
        refreshed = entry(payload, refreshing=Refreshing(300, 1_700_000_000_001)).encode()
        assert refreshed[:1] == b"\x02"
        assert refreshed[1:39] == plain[1:39]
        assert refreshed[39:51] == (300).to_bytes(4) + (1_700_000_000_001).to_bytes(8)
        assert refreshed[51:] == plain[39:]
        assert LARGEST_HEADER_BYTES == 55

    def test_ends_with_the_body_that_the_worker_sends(self) -> None:
        """The script joins its part of the header to the body as it is."""
        body = result_body([1, 2])
        ours = struct.pack(">BBB8sQQQI", 1, ord("R"), 1, b"generatn", 7, 1_700_000_000_000, 1_700_000_600_000, 5_000)
        assert Entry.decode(ours + body) == entry(pack([1, 2]))
        assert body == encode_body(pack([1, 2]))

    @settings(deadline=None)
    @given(entries)
    def test_is_read_as_it_is_written(self, original: Entry) -> None:
        assert Entry.decode(original.encode()) == original


class TestDecode:
    @pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1])
    def test_refuses_what_is_shorter_than_a_header(self, length: int) -> None:
        with pytest.raises(MalformedEntry, match="fewer than"):
            Entry.decode(entry().encode()[:length])

    @pytest.mark.parametrize("length", [1, HEADER_BYTES, LARGEST_HEADER_BYTES - 1])
    def test_also_than_the_longer_one(self, length: int) -> None:
        with pytest.raises(MalformedEntry, match="fewer than"):
            Entry.decode(entry(b"12345678", refreshing=Refreshing(1, 1)).encode()[:length])

    @pytest.mark.parametrize(("place", "byte"), [(0, 0), (0, 3), (1, 0), (1, ord("r")), (2, 0), (2, 3)])
    def test_refuses_another_layout_kind_or_codec(self, place: int, byte: int) -> None:
        data = bytearray(entry().encode())
        data[place] = byte
        with pytest.raises(MalformedEntry, match="layout"):
            Entry.decode(bytes(data))

    @settings(deadline=None)
    @given(st.binary(min_size=1, max_size=50), st.data())
    def test_refuses_a_payload_of_which_a_bit_has_changed(self, payload: bytes, data: st.DataObject) -> None:
        torn = bytearray(entry(payload).encode())
        torn[data.draw(st.integers(HEADER_BYTES - 4, len(torn) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        with pytest.raises(MalformedEntry, match="checksum"):
            Entry.decode(bytes(torn))

    def test_refuses_a_payload_that_is_cut_or_too_long(self) -> None:
        whole = entry(b"abc").encode()
        for wrong in (whole[:-1], whole + b"\0"):
            with pytest.raises(MalformedEntry, match="checksum"):
                Entry.decode(wrong)

    @settings(deadline=None, max_examples=500)
    @given(entries, st.data())
    def test_of_changed_bytes_gives_an_outcome_or_that_error(self, original: Entry, data: st.DataObject) -> None:
        changed = bytearray(original.encode())
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(MalformedEntry):
            assert isinstance(Entry.decode(bytes(changed)).outcome(), (Result, Failure))


class TestOutcome:
    @settings(deadline=None, max_examples=500)
    @given(entries, st.data())
    def test_in_bytes_of_any_kind_is_what_the_entry_says_or_its_refusal(
        self, original: Entry, data: st.DataObject
    ) -> None:
        found = bytearray(original.encode())
        if data.draw(st.booleans()):
            found[data.draw(st.integers(0, len(found) - 1))] = data.draw(st.integers(0, 255))
        del found[data.draw(st.integers(0, 2 * len(found))) :]

        def told(read: Callable[[bytes], object]) -> str:
            try:
                return repr(read(bytes(found)))  # failures compare by what they say
            except MalformedEntry as error:
                return f"refused: {error}"

        assert told(lambda data: outcome_in(data, 10**6)) == told(
            lambda data: Entry.decode(data).plain(10**6).outcome()
        )

    @pytest.mark.parametrize("value", [None, False, 0, "", {"label": "pdf", "score": 0.98}])
    def test_of_a_result_is_its_value_also_if_that_is_none(self, value: Any) -> None:
        assert entry(pack(value)).outcome() == Result(value)

    def test_of_a_failure_is_the_error_that_was_raised(self) -> None:
        body = failure_body(ModelFailed("division by zero", {"type": "ZeroDivisionError"}))
        outcome = entry(body[4:], Kind.FAILURE).outcome()
        assert isinstance(outcome, Failure)
        assert type(outcome.error) is ModelFailed
        assert (outcome.error.message, outcome.error.details) == ("division by zero", {"type": "ZeroDivisionError"})

    @pytest.mark.parametrize("payload", [pack([1]), pack("text"), b"\xc1", b""])
    def test_of_a_failure_that_cannot_be_read_is_malformed(self, payload: bytes) -> None:
        with pytest.raises(MalformedEntry):
            entry(payload, Kind.FAILURE).outcome()

    def test_of_a_failure_that_this_release_does_not_know_is_a_failure(self) -> None:
        outcome = entry(pack({"name": "NotYetInvented", "message": "x", "details": 3}), Kind.FAILURE).outcome()
        assert isinstance(outcome, Failure)
        assert type(outcome.error) is PredictionFailed

    @pytest.mark.parametrize(
        "failure", [ModelFailed("bad name \udcff", {"type": "X"}), ModelFailed("x", {"culprit": object()})]
    )
    def test_of_a_failure_that_cannot_travel_whole_is_told_all_the_same(self, failure: PredictionFailed) -> None:
        """A failure that could not be told would leave its waiters waiting."""
        told = msgpack.unpackb(failure_body(failure)[4:])
        assert (told["name"], told["details"]) == ("ModelFailed", {})

    def test_that_cannot_travel_is_refused_where_it_is_made(self) -> None:
        with pytest.raises(TypeError, match=r"^\$\['a'\] cannot travel"):
            result_body({"a": object()})
