"""Reading entries without a script, for those whose look-ups mostly hit.

The script that answers, joins or opens costs a server ten times what a plain read of the same entry does. So a producer
reads first while nearly all of its look-ups are hits, and runs the script for what it did not find; otherwise it runs
the script at once, since each miss would pay for one round trip more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from foreseen.entry import LAYOUT
from foreseen.keys import Key, KeySpace
from foreseen.parcels import Command

__all__ = ["NOTHING", "READS", "Habit", "entries_in", "entry_in", "read", "read_one"]

#: Entries that are read in one round trip; they lie in 256 buckets at most, each a command.
READS: Final = 1000

#: What is read of a key without an entry.
NOTHING: Final = (None, None)
#: Look-ups that the share of hits is taken over.
_SPAN: Final = 64
#: From this share on, the round trips that the misses pay for are fewer than one in twenty.
_MOSTLY: Final = 0.95


class Habit:
    """How much of what was looked up of late could be read; threads may overwrite each other's counts: no harm.

    An entry that is refreshed cannot be: whoever meets it is to learn from the script whether it is due.
    """

    def __init__(self) -> None:
        self._share = 0.0

    @property
    def is_hitting(self) -> bool:
        """Whether nearly everything was."""
        return self._share > _MOSTLY

    def note(self, hits: int, asked: int = 1) -> None:
        """Take in what became of look-ups."""
        weight = asked / _SPAN if asked < _SPAN else 1.0
        self._share += (hits / asked - self._share) * weight


def read(space: KeySpace, keys: Sequence[Key]) -> Command:
    """Return the command that reads entries of one bucket, and the generation that they must be of, in one step."""
    return ("MGET", *space.current_entries(keys))


def read_one(space: KeySpace, key: Key) -> Command:
    """Return what `read` does of one entry."""
    return ("MGET", *space.current_entry(key))


def entry_in(reply: Sequence[bytes | None]) -> bytes | None:
    """Return what `entries_in` does of one entry."""
    generation, entry = reply
    return entry if entry is not None and entry[3:11] == generation and entry[0] == LAYOUT else None


def entries_in(reply: Sequence[bytes | None]) -> list[bytes | None]:
    """Return the current entries that `read` found, judged as the script `join` does; None where there is none."""
    generation = reply[0]
    if generation is None:
        return [None] * (len(reply) - 1)
    return [
        entry if entry is not None and entry[3:11] == generation and entry[0] == LAYOUT else None for entry in reply[1:]
    ]
