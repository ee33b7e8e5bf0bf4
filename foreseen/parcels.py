"""What callers ask of the cache server, packed for one round trip: reads of all of them become one command.

A reply costs its reader far more than the entry in it, and a server more than the look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from hiredis import pack_command

__all__ = ["Command", "Parcel", "pack", "parcel", "unpack"]

Command: TypeAlias = tuple[Any, ...]


class Parcel(NamedTuple):
    """What one caller asks.

    Attributes:
        packed: his commands as they travel.
        n_commands: how many those are.
        reads: his `MGET`s, if that is what he asks; then he asks nothing else, and nothing is packed yet.
    """

    packed: bytes
    n_commands: int
    reads: Sequence[Command]


def parcel(commands: Sequence[Command]) -> Parcel:
    """Return what a caller asks; all of his commands are `MGET`, or none is."""
    if commands and commands[0][0] == "MGET":
        return Parcel(b"", 0, commands)
    return Parcel(b"".join(map(pack_command, commands)), len(commands), ())


def pack(parcels: Sequence[Parcel]) -> tuple[bytes, int]:
    """Return what is sent for several callers in one round trip, and how many replies there will be."""
    if len(parcels) == 1:
        packed, n_commands, reads = parcels[0]
        if not reads:
            return packed, n_commands
        if len(reads) == 1:
            return pack_command(reads[0]), 1
    reads = [read for each in parcels for read in each.reads]
    pieces = [each.packed for each in parcels]
    n_replies = sum([each.n_commands for each in parcels])
    if reads:
        pieces.append(pack_command(("MGET", *[name for read in reads for name in read[1:]])))
        n_replies += 1
    return b"".join(pieces), n_replies


def unpack(parcels: Sequence[Parcel], replies: list[Any]) -> list[list[Any]]:
    """Return each caller's replies, in the order of his commands."""
    if len(parcels) == 1 and len(parcels[0].reads) <= 1:
        return [replies]
    own: list[list[Any]] = []
    start = first = 0
    for each in parcels:
        if not each.reads:
            own.append(replies[start : start + each.n_commands])
            start += each.n_commands
            continue
        values = replies[-1]
        if isinstance(values, Exception):
            own.append([values] * len(each.reads))
            continue
        read: list[Any] = []
        for command in each.reads:
            read.append(values[first : first + len(command) - 1])
            first += len(command) - 1
        own.append(read)
    return own
