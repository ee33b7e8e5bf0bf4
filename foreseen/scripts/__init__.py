"""The Lua scripts: one file for each atomic step of the protocol, and what puts them together.

A script names the libraries it uses in a line `-- include: name …`; the loader puts their text in that line's place, so
that what runs before it does not pay for them. Scripts are addressed by their content (SHA-1, as EVALSHA wants it), so
that two releases can run side by side on one server.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

__all__ = ["Script", "load"]

_INCLUDE = r"(?m)^-- include: (.+)$"


class Script(NamedTuple):
    """A script's name, text and digest (40 hex digits)."""

    name: str
    text: str
    sha: str


@cache
def load(name: str) -> Script:
    """Return the script `name` with its libraries in it."""
    folder = files(__name__)
    text = (folder / f"{name}.lua").read_text(encoding="utf-8")

    def included(line: re.Match[str]) -> str:
        return "\n".join((folder / "lib" / f"{name}.lua").read_text(encoding="utf-8") for name in line[1].split())

    whole = re.sub(_INCLUDE, included, text)
    return Script(name, whole, hashlib.sha1(whole.encode(), usedforsecurity=False).hexdigest())
