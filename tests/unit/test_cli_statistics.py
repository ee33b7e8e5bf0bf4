from __future__ import annotations

import re
from pathlib import Path

import pytest

from foreseen import scripts, statistics
from foreseen.flights import KEEP_MS
from foreseen.keys import BUCKETS, KeySpace
from foreseen.statistics import Counts, ServerMemory
from workers.rejections import Rejections

SPACE = KeySpace("t")


def test_the_counts_have_the_names_under_which_the_scripts_count() -> None:
    texts = "".join(path.read_text() for path in Path(scripts.__file__).parent.rglob("*.lua"))
    calls = re.findall(r"count\(keys\.statistics, (.+?), (?:call\.)?keep_ms[,)]", texts)
    counted_by_scripts = set(statistics.EVENTS) - {"rejected", "audited", "differed"}  # which workers count themselves
    assert {name for call in calls for name in re.findall(r"'(\w+)'", call)} == counted_by_scripts
    assert Rejections().commands(SPACE, ["m@1"]) == []
    rejections = Rejections()
    rejections.note("for a test", "t.m@1")
    rejections.note("for a test", "of somebody else")
    increment, expiry = rejections.commands(SPACE, ["m@1"])[:2]
    assert increment == ("HINCRBY", SPACE.statistics_of("m@1", BUCKETS[0]), "rejected", 1)
    assert expiry == ("PEXPIRE", SPACE.statistics_of("m@1", BUCKETS[0]), KEEP_MS)
    assert rejections.commands(SPACE, ["m@1"]) == []


def test_every_bucket_is_read_once() -> None:
    commands = statistics.read(SPACE, "m@1")
    assert [command[1] for command in commands] == [SPACE.statistics_of("m@1", bucket) for bucket in BUCKETS]
    assert {command[0] for command in commands} == {"HMGET"}
    assert {command[2:] for command in commands} == {statistics.EVENTS}


def test_buckets_are_summed_up() -> None:
    empty: list[bytes | None] = [None] * len(statistics.EVENTS)
    one = [b"3", b"1", b"3", b"2", b"1", *empty[5:]]
    counts = statistics.parse([one, *[empty] * 254, one])
    assert counts == Counts(opened=6, joined=2, begun=6, computed=4, failed=2)
    assert counts.coalesced_share == 0.25
    assert counts.failed_share == pytest.approx(1 / 3)
    assert counts.hit_share == 0


def test_whatever_an_entry_answered_is_a_hit() -> None:
    assert Counts(opened=4, joined=2, stale=1, hit=6, near=7).hit_share == pytest.approx(14 / 20)


def test_the_hottest_come_first_and_what_is_no_short_digest_is_left_out() -> None:
    flat = [b"0000000b", b"3", b"0000000a", b"30", b"0000000c", b"3", b"0" * 40, b"99", b"\x1b[31mbad", b"9"]
    assert list(statistics.parse_hottest([flat]).items()) == [("0000000a", 30), ("0000000b", 3), ("0000000c", 3)]
    assert statistics.parse_hottest([[]]) == {}


def test_a_share_of_nothing_is_none() -> None:
    assert Counts().coalesced_share is None
    assert Counts().failed_share is None
    assert Counts().hit_share is None


def test_the_server_tells_of_its_memory() -> None:
    memory = (
        b"# Memory\r\nused_memory:1024\r\nused_memory_human:1K\r\nmaxmemory:2048\r\nmaxmemory_policy:allkeys-lru\r\n"
    )
    assert statistics.parse_server([[memory, b"# Stats\r\nevicted_keys:7\r\n"]]) == ServerMemory(
        1024, 2048, "allkeys-lru", 7
    )


def test_what_a_server_does_not_tell_is_none() -> None:
    assert statistics.parse_server([[b"", b"used_memory:?"]]) == ServerMemory(None, None, None, None)


def test_a_cluster_s_memory_is_that_of_its_masters() -> None:
    first = b"used_memory:100\r\nmaxmemory:1000\r\nmaxmemory_policy:allkeys-lfu\r\nevicted_keys:1\r\n"
    second = b"used_memory:50\r\nmaxmemory:500\r\nmaxmemory_policy:noeviction\r\nevicted_keys:2\r\n"
    told = statistics.parse_server([[first], [second]])
    assert told == ServerMemory(150, 1500, "allkeys-lfu, noeviction", 3)
    assert statistics.parse_server([[first], [b""]]).used_bytes is None
