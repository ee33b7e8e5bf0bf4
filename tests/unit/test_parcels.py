"""What callers ask together: reads of all of them are one command, and each gets what is his."""

from __future__ import annotations

from typing import Any

import pytest
from hiredis import pack_command

from foreseen.parcels import Command, Parcel, pack, parcel, unpack

PING: Command = ("PING",)
FIRST: Command = ("MGET", "a")
SECOND: Command = ("MGET", "b", "c")
THIRD: Command = ("MGET", "d")


def sent(*asked: list[Command]) -> tuple[list[Parcel], bytes, int]:
    parcels = [parcel(commands) for commands in asked]
    return parcels, *pack(parcels)


@pytest.mark.parametrize("commands", [[PING], [PING, ("GET", "x")], [FIRST]])
def test_what_one_caller_asks_travels_as_it_is(commands: list[Command]) -> None:
    parcels, packed, n_replies = sent(commands)
    assert packed == b"".join(map(pack_command, commands))
    assert n_replies == len(commands)
    assert unpack(parcels, ["reply"] * n_replies) == [["reply"] * n_replies]


def test_the_reads_of_one_caller_become_one() -> None:
    parcels, packed, n_replies = sent([FIRST, SECOND])
    assert (packed, n_replies) == (pack_command(("MGET", "a", "b", "c")), 1)
    assert unpack(parcels, [[b"A", b"B", None]]) == [[[b"A"], [b"B", None]]]


def test_the_reads_of_several_callers_become_one_behind_what_others_ask() -> None:
    parcels, packed, n_replies = sent([FIRST], [PING, PING], [SECOND, THIRD], [PING])
    assert packed == b"".join(map(pack_command, [PING, PING, PING, ("MGET", "a", "b", "c", "d")]))
    assert n_replies == 4
    replies: list[Any] = [1, 2, 3, [b"A", b"B", b"C", b"D"]]
    assert unpack(parcels, replies) == [[[b"A"]], [1, 2], [[b"B", b"C"], [b"D"]], [3]]


def test_a_refusal_is_told_to_each_who_reads_and_to_nobody_else() -> None:
    refusal = RuntimeError("LOADING")
    parcels, _, _ = sent([FIRST], [PING], [SECOND, THIRD])
    assert unpack(parcels, ["PONG", refusal]) == [[refusal], ["PONG"], [refusal, refusal]]
