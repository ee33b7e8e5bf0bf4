"""Each typed call against the text of the script that it is for: nothing here runs Lua."""

from __future__ import annotations

import re
from hashlib import sha256
from importlib.resources import files
from typing import Any

import pytest

from foreseen import scripts
from foreseen.flights import (
    DAY_MS,
    FENCE_MS,
    FLIGHT_MS,
    HOTTEST_MS,
    KEEP_MS,
    MOST_HOTTEST,
    PUSH_LIMIT_BYTES,
    TAG_MS,
    Call,
    Flights,
    Hit,
    Joined,
    Kind,
    Ticket,
    Unknown,
    Watermark,
    nonce,
    nonces,
)
from foreseen.holding import Alone, Begin, Begun, Finish, Finished, HolderFlights
from foreseen.keys import Key
from foreseen.settings import Settings

KEY, OTHER = Key("model", "1", "ab" * 20), Key("other", "2", "cd" * 20)
FLIGHTS = HolderFlights(Settings(namespace="t", lease_s=7, visibility_timeout_s=100, max_attempts=5))
# Numbers that no two arguments share, so that one in another's place shows.
TICKET = Ticket(KEY, "t:inbox:me", 101, Kind.DETACHED, "my-token", True, False, 8, 102, True)
BEGUN = Begun(Begin.RUN, "token-103", b"generatn", 104)

CALLS: dict[str, Call[Any]] = {
    "join": FLIGHTS.join(TICKET),
    "look": FLIGHTS.look(TICKET, "t1,t2", 105, Watermark(106, 107)),
    "begin": FLIGHTS.begin(
        KEY, "token-108", 109, 110, 6, "holder-111", "delivery-112", alone=Alone.IN_PROCESS, copies=13, worker="w-114"
    ),
    "finish": FLIGHTS.finish(
        KEY,
        BEGUN,
        "holder-113",
        "delivery-114",
        success=True,
        body=b"body",
        expiry_ms=115,
        cost_us=116,
        copies=14,
        stale_ms=15,
        early_ms=16,
        codec=2,
        named=True,
    ),
    "renew": FLIGHTS.renew(KEY, "holder-117", waits=True),
    "give_up": FLIGHTS.give_up(KEY, "holder-118", died="signal-119"),
    "wanted": FLIGHTS.wanted(KEY, "holder-123"),
    "copied": FLIGHTS.copied(KEY, "token-118", "copy-119", 12, "own-120"),
    "published": FLIGHTS.published(KEY, "token-120"),
    "leave": FLIGHTS.leave(KEY, "t:inbox:me", 121, Kind.WAITER),
    "peek": FLIGHTS.peek(KEY),
    "invalidate": FLIGHTS.invalidate(KEY),
    "purge": FLIGHTS.purge("model@1", "ab"),
    "tally": FLIGHTS.tally("model@1", 124, 125, 126, {"abcdef01": 127, "abcdef02": 128}, 129),
    "measure": FLIGHTS.measure("model@1", {"answer:hit:3": 130, "answer:hit:sum": 131}),
    "raise_watermark": FLIGHTS.raise_watermark("t.model@1", 3, 122),
    "promote": FLIGHTS.promote("model", "130"),
    "tag": FLIGHTS.tag("customer:42", [KEY, OTHER]),
    "settle": FLIGHTS.settle("customer:42", {KEY: 123, OTHER: 456}),
}

DURATIONS = {
    "lease_ms": 6_300, "waiter_ms": 21_000, "outcome_ms": 28_000, "mark_ms": 214_000,
    "deaths_ms": 214_000,
    "flight_ms": FLIGHT_MS, "keep_ms": KEEP_MS, "fence_ms": FENCE_MS, "push_limit": PUSH_LIMIT_BYTES,
    "max_attempts": 5, "again_ms": DAY_MS, "hottest_ms": HOTTEST_MS, "most": MOST_HOTTEST,
}  # fmt: skip

# What a script calls an argument, and what the call above puts there.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "join": {"may_open": "0", "token": "my-token", "inbox": "t:inbox:me", "serial": 101, "kind": "d", "priority": 8,
             "deadline_ms": 102, "bare": "1"},
    "look": {"not_before": 105, "may_open": "0", "token": "my-token", "inbox": "t:inbox:me", "serial": 101, "kind": "d",
             "priority": 8, "deadline_ms": 102, "bare": "1", "tokens": "t1,t2", "passed": 106, "began": 107},
    "begin": {"key_text": str(KEY), "token": "token-108", "opened": 109, "deadline": 110, "priority": 6,
              "holder": "holder-111", "delivery": "delivery-112", "alone": 1, "copies": 13,
              "worker": "w-114"},
    "finish": {"key_text": str(KEY), "kind": "R", "holder": "holder-113", "generation_then": b"generatn", "begun": 104,
               "body": b"body", "fresh_ms": 115, "stale_ms": 15, "early_ms": 16, "codec": 2, "named": 1,
               "cost_us": 116, "delivery": "delivery-114", "token": "token-103",
               "copies": 14},
    "renew": {"holder": "holder-117", "waits": 1},
    "give_up": {"holder": "holder-118", "died": 1, "reason": "signal-119"},
    "wanted": {"holder": "holder-123"},
    "copied": {"token": "token-118", "copy": "copy-119", "number": 12, "own": "own-120"},
    "published": {"token": "token-120"},
    "leave": {"inbox": "t:inbox:me", "serial": 121, "kind": "w"},
    "tally": {"hit": 124, "near": 125, "saved_us": 126, "noted": "abcdef01:127,abcdef02:128", "unreadable": 129},
    "measure": {"keep_ms": KEEP_MS, "measured": "answer:hit:3=130,answer:hit:sum=131"},
    "watermark": {"sent": 122, "keep_ms": FLIGHT_MS},
    "promote": {"version": "130"},
    "tag": {"tag": sha256(b"customer:42").hexdigest()[:40], "packed": f"{KEY},{OTHER}", "keep_ms": TAG_MS},
    "settle": {"packed": f"{KEY}=123,{OTHER}=456"},
}  # fmt: skip

# The letter of a key's pattern (docs/protocol.md), and what scripts call such a key.
LETTERS = {
    "generation": "g", "clock": "c", "entry": "e", "flight": "f", "statistics": "s", "outcomes": "o", "ends": "x",
    "deaths": "d", "invalidated": "i", "watermark": "w", "hottest": "s", "measures": "m",
    "directory": "t", "index": "t",
}  # fmt: skip

each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def code_of(call: Call[Any]) -> str:
    """Return a script without its comments."""
    return re.sub(r"--.*", "", call.script.text)


def bind(call: Call[Any], table: str) -> dict[str, int]:
    """Return the names that a script gives to places of `KEYS` or `ARGV`: `a = KEYS[1]`, `a, b = KEYS[1], KEYS[2]`."""
    code, names = code_of(call), dict[str, int]()
    one = rf"(?:tonumber\()?{table}\[\d+\]\)?"
    for match in re.finditer(rf"([\w, ]+?) = ({one}(?:, {one})*)", code):
        found = [int(place) for place in re.findall(r"\[(\d+)\]", match[2])]
        lefts = [name.strip().removeprefix("local ") for name in match[1].split(",")]
        names.update(zip(lefts[-len(found) :], found, strict=True))
    return names


def test_every_step_has_a_call_here() -> None:
    members = {**vars(Flights), **vars(HolderFlights)}
    methods = {name for name, member in members.items() if callable(member) and not name.startswith("_")}
    assert methods == set(CALLS)


def test_every_script_has_a_step() -> None:
    names = {entry.name.removesuffix(".lua") for entry in files(scripts).iterdir() if entry.name.endswith(".lua")}
    assert names == {call.script.name for call in CALLS.values()}


@each_call
def test_a_script_reads_every_key_and_argument_that_it_is_sent_and_no_more(call: Call[Any]) -> None:
    for table, sent in (("KEYS", call.keys), ("ARGV", call.args)):
        read = {int(place) for place in re.findall(rf"{table}\[(\d+)\]", code_of(call))}
        assert read == set(range(1, len(sent) + 1)), table
        assert not re.search(rf"{table}\[[^\d]", code_of(call))  # a computed place could not be checked


@each_call
def test_each_key_stands_where_the_script_looks_for_it(call: Call[Any]) -> None:
    names = bind(call, "KEYS")
    assert sorted(names.values()) == list(range(1, len(call.keys) + 1))
    for name, place in names.items():
        kind = name.removesuffix("_key")
        start = f"t:{LETTERS[kind]}:{{" if kind in LETTERS else f"t:{kind}:"  # of a model, and not of a bucket
        assert call.keys[place - 1].startswith(start), name


@each_call
def test_each_argument_stands_where_the_script_looks_for_it(call: Call[Any]) -> None:
    names = bind(call, "ARGV")
    expected = {**DURATIONS, **ARGUMENTS.get(call.script.name, {})}
    for name, place in names.items():
        if name == "nonce":
            assert re.fullmatch("[0-9a-f]{16}", str(call.args[place - 1]))
        else:
            assert call.args[place - 1] == expected[name], name
    assert set(ARGUMENTS.get(call.script.name, {})) <= set(names)


@each_call
def test_all_keys_of_a_step_lie_in_one_slot(call: Call[Any]) -> None:
    """A cluster refuses a script whose keys do not."""
    assert len({re.findall(r"{(.*)}", key)[0] if "{" in key else key for key in call.keys}) == 1


@each_call
def test_what_travels_is_text_bytes_or_a_number(call: Call[Any]) -> None:
    assert all(isinstance(argument, (str, bytes, int, float)) for argument in call.args)


def test_flags_travel_as_scripts_compare_them() -> None:
    asked = Ticket(KEY, "inbox", 1, Kind.WAITER, "token")
    assert (FLIGHTS.join(asked).args[0], FLIGHTS.join(asked).args[1]) == ("0", "1")
    assert FLIGHTS.join(TICKET).args[0] == "1"
    assert FLIGHTS.begin(KEY, "t", 1, 0, 4, "h", "d", alone=Alone.NO).args[7] == 0
    assert FLIGHTS.give_up(KEY, "h", died=None).args[1:3] == (0, "")
    assert len(FLIGHTS.give_up(KEY, "h", died="x" * 1000).args[2]) == 200  # type: ignore[arg-type]
    assert FLIGHTS.finish(KEY, BEGUN, "h", "d", success=False, body=b"", expiry_ms=0, cost_us=0).args[1] == "F"


def test_a_generation_is_proposed_anew_each_time() -> None:
    assert FLIGHTS.purge("model@1", "ab").args[0] != FLIGHTS.purge("model@1", "ab").args[0]


class TestReplies:
    def test_join_and_look(self) -> None:
        for name in ("join", "look"):
            read = CALLS[name].read
            assert read(b"an entry") == Hit(b"an entry")
            assert read([2]) == Unknown()
            assert read([1, 1, 0, b"token", 5, 6, 7, 8, b"9"]) == Joined(True, False, "token", 5, 6, 7, 8, 9)
            assert read([1, 0, 1, b"token", 5, 6, 7, 8, 9]).priority == 9

    def test_begin(self) -> None:
        read = CALLS["begin"].read
        assert read([0]) == Begun(Begin.SETTLED)
        assert read([2, 40, b"token"]) == Begun(Begin.HELD, "token", lease_left_ms=40)
        assert read([5]) == Begun(Begin.ALONE)
        assert read([6]) == Begun(Begin.ISOLATE)
        assert read([1, b"token", b"generatn", 7, 8]) == Begun(Begin.RUN, "token", b"generatn", 7, deadline_left_ms=8)
        assert read([3, b"token", b"generatn", 7]) == Begun(Begin.EXPIRED, "token", b"generatn", 7)
        for last in (b"signal 9", None):
            exhausted = Begun(Begin.EXHAUSTED, "token", b"generatn", 7, deaths=3, last_death=(last or b"").decode())
            assert read([4, b"token", b"generatn", 7, 3, last]) == exhausted

    def test_finish(self) -> None:
        read = CALLS["finish"].read
        assert read([3, 40, b"token"]) == Finished(Finish.HELD, "token", 40)
        for code in (Finish.SETTLED, Finish.KEPT, Finish.TOLD, Finish.RESEND):
            assert read([int(code)]) == Finished(code)

    def test_peek(self) -> None:
        assert CALLS["peek"].read(b"entry") == b"entry"
        assert CALLS["peek"].read(None) is None

    @pytest.mark.parametrize("name", ["renew", "give_up", "wanted", "copied", "published", "leave", "invalidate"])
    def test_yes_or_no(self, name: str) -> None:
        assert CALLS[name].read(1) is True
        assert CALLS[name].read(0) is False

    @pytest.mark.parametrize(
        ("name", "reply"),
        [
            *((name, reply) for name in ("join", "look") for reply in (
                None, 1, [], [0], [1], [3], [2, 0], [1, 1, 0, b"token", 5, 6, 7, 8], "text",
                [7, 1, 0, b"token", 5, 6, 7, 8, 9],
            )),
            *(("begin", reply) for reply in (None, 0, [], [1], [2], [7], [0, 0], [5, 1], [7, b"t", b"g", 1], [-1],
                                            [1, b"t", b"g", 1])),
            *(("finish", reply) for reply in (None, 0, [], [6], [-1], [1, 2], [4, 40])),
        ],
    )  # fmt: skip
    def test_what_no_script_says_raises(self, name: str, reply: Any) -> None:
        """Of another release, say: it is not to be taken for something else."""
        with pytest.raises(ValueError, match=r"replied|is not a valid"):
            CALLS[name].read(reply)


def test_codes_are_those_that_the_scripts_name() -> None:
    for name, codes in (("begin", Begin), ("finish", Finish)):
        text = (files(scripts) / f"{name}.lua").read_text("utf-8")
        returns = text[text.index("-- Returns") : text.index("\nlocal ")]
        assert {int(code) for code in re.findall(r"\{(\d)", returns)} == {int(code) for code in codes}


def test_durations_hang_together() -> None:
    """What must outlive what, for any lease."""
    assert FLIGHTS.waiter_ms >= 2 * FLIGHTS.lease_ms  # a waiter looks each lease: one look may be lost
    assert FLIGHTS.outcome_ms > FLIGHTS.waiter_ms
    assert FLIGHTS.mark_ms > 2 * 100_000  # two visibility timeouts
    assert FLIGHT_MS <= KEEP_MS


def test_a_nonce_is_64_bits_in_hex() -> None:
    drawn = {nonce() for _ in range(100)}
    assert len(drawn) == 100
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in drawn)


def test_many_nonces_are_as_different_as_one_by_one() -> None:
    many = nonces(1000)
    assert len({*many, *nonces(1000)}) == 2000
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in many)
    assert nonces(0) == []
