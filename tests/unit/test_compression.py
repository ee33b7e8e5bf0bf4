from __future__ import annotations

import os
import sys
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from foreseen.compression import deflate, inflate
from foreseen.entry import COMPRESSED_CODEC, Entry, Kind, encode_body, outcome_in, payload_of
from foreseen.errors import MalformedEntry, Misconfigured
from foreseen.keys import Key
from foreseen.outcome import Result
from foreseen.payload import pack
from foreseen.signing import Keyring

LARGE = pack([{"label": "person", "score": n / 100} for n in range(500)])


def compressed(payload: bytes = LARGE) -> bytes:
    small = deflate(payload)
    assert small is not None
    return small


def entry(payload: bytes) -> Entry:
    return Entry(Kind.RESULT, b"generatn", 7, 1, 2, 3, payload, codec=COMPRESSED_CODEC)


@given(st.binary(max_size=300), st.integers(2, 50))
def test_comes_back_as_it_went_if_it_is_worth_it(part: bytes, times: int) -> None:
    payload = part * times
    small = deflate(payload)
    if small is not None:
        assert len(small) < 0.8 * len(payload)
        assert inflate(small, len(payload)) == payload


def test_what_does_not_become_smaller_stays_as_it_is() -> None:
    assert deflate(os.urandom(10_000)) is None
    assert deflate(b"short") is None


def test_nothing_larger_than_allowed_is_made() -> None:
    """A bomb: 33 kB that say they become a GiB, and would."""
    bomb = zstandard.ZstdCompressor().compress(bytes(2**30))
    assert len(bomb) < 2**16
    tracemalloc.start()
    with pytest.raises(MalformedEntry, match="become 1073741824; 67108864 are allowed"):
        inflate(bomb, 64 * 2**20)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert inflate(compressed(), len(LARGE)) == LARGE
    with pytest.raises(MalformedEntry):
        inflate(compressed(), len(LARGE) - 1)


def test_a_frame_that_does_not_say_how_large_it_becomes_is_refused() -> None:
    untold = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    with pytest.raises(MalformedEntry):
        inflate(untold, 10**6)


def test_a_frame_that_becomes_larger_than_it_says_is_refused() -> None:
    small = bytearray(zstandard.ZstdCompressor().compress(b"ab" * 5000))
    parameters = zstandard.get_frame_parameters(bytes(small))
    assert parameters.content_size == 10_000
    place = bytes(small).index((10_000 - 256).to_bytes(2, "little"))  # RFC 8878, 3.1.1.1.4
    small[place : place + 2] = (5000 - 256).to_bytes(2, "little")
    assert zstandard.frame_content_size(bytes(small)) == 5000
    with pytest.raises(MalformedEntry):
        inflate(bytes(small), 10**6)


@given(st.binary(max_size=100) | st.binary(max_size=40).map(lambda tail: compressed()[:20] + tail))
def test_whatever_is_no_frame_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEntry):
        inflate(data, 10**6)


def test_more_bytes_than_one_frame_are_refused() -> None:
    with pytest.raises(MalformedEntry):
        inflate(compressed() + compressed(), 10**6)


class TestEntries:
    def test_are_read_whichever_way_one_reads_them(self) -> None:
        data = entry(compressed()).encode()
        assert data[2] == COMPRESSED_CODEC
        read = Entry.decode(data)
        assert read == entry(compressed())
        plain = read.plain(len(LARGE))
        assert (plain.payload, plain.codec) == (LARGE, 1)
        assert plain.plain(0) is plain
        assert outcome_in(data, len(LARGE)) == plain.outcome() == Result(_value())

    def test_too_large_ones_are_a_miss(self) -> None:
        data = entry(compressed()).encode()
        with pytest.raises(MalformedEntry):
            outcome_in(data, len(LARGE) - 1)
        with pytest.raises(MalformedEntry):
            Entry.decode(data).plain(len(LARGE) - 1)

    @pytest.mark.parametrize("codec", [0, 3, 255])
    def test_of_a_codec_that_is_not_known_are_a_miss(self, codec: int) -> None:
        """As this one is for a release that does not know it."""
        data = bytearray(entry(compressed()).encode())
        data[2] = codec
        with pytest.raises(MalformedEntry, match=f"codec {codec}"):
            Entry.decode(bytes(data))

    @pytest.mark.parametrize(("payload", "codec"), [(compressed(), 1), (LARGE, 2)])
    def test_under_the_other_codec_are_malformed(self, payload: bytes, codec: int) -> None:
        """The signature does not cover the codec; no payload can be read under both."""
        with pytest.raises(MalformedEntry):
            outcome_in(entry(payload)._replace(codec=codec).encode(), 10**6)

    def test_are_signed_as_they_are_kept(self) -> None:
        keyring, key = Keyring.read("one:" + "k" * 40), Key("model", "1", "0" * 40)
        sealed = entry(payload_of(keyring.seal(key, Kind.RESULT, encode_body(compressed()))))
        assert keyring.open(key, Entry.decode(sealed.encode())).plain(10**6).outcome() == Result(_value())
        forged = sealed._replace(payload=sealed.payload[:-1] + b"\0")
        with pytest.raises(MalformedEntry, match="not signed"):
            keyring.open(key, forged)


def test_without_the_library_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    small = compressed()
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(Misconfigured, match=r"foreseen\[compression\]"):
        inflate(small, 10**6)


def _value() -> list[dict[str, object]]:
    return [{"label": "person", "score": n / 100} for n in range(500)]
