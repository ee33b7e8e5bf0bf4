"""The demo's input: files that every machine with a Python has, and those of the repository that one stands in."""

from __future__ import annotations

import os
import random
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

__all__ = ["Input", "find_input", "shares"]

#: Larger files say nothing more: the network looks at both ends of a file only.
_MAX_BYTES = 256 * 1024
#: Enough for any repository that a demo is run in; a home directory under version control ends here.
_MAX_SCANNED = 20_000
#: At most this part comes from the repository, since two runs should do about the same work.
_REPOSITORY_PART = 4
_COMPILED = "__pycache__"
_SKIPPED = frozenset({_COMPILED, "node_modules", "site-packages", "dist-packages", "build", "dist"})


@dataclass(frozen=True, slots=True)
class Input:
    """Which files are asked for.

    Attributes:
        paths: in the order in which they are asked for.
        from_library: how many are Python's.
        repository: name of the repository that gave the others; None if there is none.
    """

    paths: list[Path]
    from_library: int
    repository: str | None


def find_input(count: int, start: Path) -> Input:
    """Choose files, the same ones each time that the folders are the same.

    Args:
        count: how many; fewer if there are no more.
        start: where to look for a repository, upwards.
    """
    chance = random.Random(count)
    root = next((folder for folder in (start, *start.parents) if (folder / ".git").exists()), None)
    repository = sorted(islice(_walk(root), _MAX_SCANNED)) if root else []
    chosen = chance.sample(repository, min(len(repository), count // _REPOSITORY_PART))
    library = Path(sysconfig.get_path("stdlib"))
    for found in (_walk(library), _walk(library, compiled=True)):  # some distributions leave out Python's tests
        files = sorted(found)
        chosen += chance.sample(files, min(len(files), count - len(chosen)))
    from_repository = len(set(chosen) & set(repository))
    chance.shuffle(chosen)
    return Input(chosen, len(chosen) - from_repository, root.name if root and from_repository else None)


def shares(paths: list[Path], count: int) -> list[list[Path]]:
    """Deal out the files to `count` processes. Every fourth goes to two of them, at about the same time."""
    dealt: list[list[Path]] = [[] for _ in range(count)]
    for index, path in enumerate(paths):
        dealt[index % count].append(path)
        if index % 4 == 0:
            dealt[(index + 1) % count].append(path)
    return dealt


def _walk(root: Path, *, compiled: bool = False) -> Iterator[Path]:
    """Yield a folder's files that are not hidden and of a fitting size; with `compiled`, what Python compiled."""
    skipped = _SKIPPED - {_COMPILED} if compiled else _SKIPPED
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".") and name not in skipped]
        if compiled != (os.path.basename(folder) == _COMPILED):  # noqa: PTH119 - text in, text compared
            continue
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file() and os.access(path, os.R_OK):
                with suppress(OSError):  # somebody removed it just now
                    if path.stat().st_size <= _MAX_BYTES:
                        yield path
