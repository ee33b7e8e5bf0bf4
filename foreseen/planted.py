"""Keys under our names that hold another type than ours: only somebody else can have put them there.

A script that meets one raises, and would for as long as it stands there; so it is removed, and the step asked again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from foreseen.errors import ForeseenError
from foreseen.flights import Call
from foreseen.nodes import NodeLost
from foreseen.parcels import Command

__all__ = ["is_blamed", "look", "removals", "touched", "was_refused"]

#: By what stands after the namespace in a key's name, see `docs/protocol.md`.
_TYPES: Final = {
    "g": b"string", "c": b"hash", "s": b"hash", "e": b"string", "f": b"hash", "o": b"hash", "x": b"hash",
    "i": b"string", "d": b"hash", "w": b"hash", "m": b"hash", "t": b"zset",
}  # fmt: skip


def was_refused(error: ForeseenError) -> bool:
    """Tell whether the server has answered, and refused one of the calls; the others were run.

    Likewise if one node of a cluster did not answer, which need not concern a call that only rode along.
    """
    return isinstance(error.__cause__, (ResponseError, NodeLost))


def is_blamed(error: ForeseenError) -> bool:
    """Tell whether the server refused because a key is of another type than a command takes."""
    return "WRONGTYPE" in str(error) and was_refused(error)


def touched(calls: Iterable[Call[Any]]) -> list[str]:
    """Return the names of all keys that calls touch, each once."""
    return list(dict.fromkeys(key for call in calls for key in call.keys))


def look(names: Sequence[str]) -> list[Command]:
    """Return the commands that ask which types the keys are of."""
    return [("TYPE", name) for name in names]


def removals(names: Sequence[str], types: Sequence[Any]) -> list[Command]:
    """Return the commands that remove the keys that are not of our types, given the replies to `look`."""
    return [
        ("DEL", name)
        for name, found in zip(names, types, strict=True)
        if found not in {b"none", _TYPES.get(name.split(":", 2)[1])}
    ]
