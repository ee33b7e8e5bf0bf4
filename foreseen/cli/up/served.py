"""What the given modules hold, looked at from outside: nothing is imported here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from foreseen.cli import leash
from foreseen.errors import Misconfigured
from foreseen.modules import Given

__all__ = ["BadModels", "Inspected", "Served", "inspect"]

#: Enough of what a module wrote to show why it took the process along.
_TAIL_LINES = 20


class BadModels(Misconfigured):
    """A module does not import, or has no model. The message says where. A retry helps once the file has changed.

    Attributes:
        directories: where a change may mend it.
    """

    def __init__(self, message: str, directories: frozenset[Path]) -> None:
        super().__init__(message)
        self.directories = directories


@dataclass(frozen=True, slots=True)
class Served:
    """A model.

    Attributes:
        name: its name.
        version: its version.
        input: the name of its input's type.
        output: the name of its output's type.
        example: an input that fits, as Python writes it; None if none was found.
        file: the module's file.
    """

    name: str
    version: str
    input: str
    output: str
    example: str | None
    file: str

    @property
    def model_id(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


#: The models, and the directories of their modules, without those of installed packages.
Inspected: TypeAlias = tuple[tuple[Served, ...], frozenset[Path]]


def inspect(modules: Sequence[Given], environment: Mapping[str, str]) -> Inspected:
    """Import the modules in another process.

    Args:
        modules: the modules.
        environment: in which they can be imported.

    Returns:
        The models, and the directories of the modules, without those of installed packages.

    Raises:
        BadModels: not every module has a model that can be served.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "foreseen.cli.up.inspection", str(os.getpid())],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        question = [{"name": each.name, "file": str(each.file) if each.file else None} for each in modules]
        told, written = process.communicate(json.dumps(question).encode())
    finally:
        leash.end(process)
    given = frozenset(each.file.parent for each in modules if each.file is not None)
    try:
        answer = json.loads(told)
    except ValueError:  # the module took the process along
        tail = "\n".join(f"  {line}" for line in written.decode(errors="replace").splitlines()[-_TAIL_LINES:])
        names = ", ".join(each.name for each in modules)
        raise BadModels(
            f"importing {names} ended the process with status {process.returncode}; it wrote:\n{tail}",
            _watched(given or frozenset({Path.cwd()})),
        ) from None
    directories = _watched(given | {Path(file).parent for file in answer["files"] if file.endswith(".py")})
    if answer["errors"]:
        message = "\n".join(answer["errors"].values())
        raise BadModels(message, directories or frozenset({Path.cwd()}))
    return tuple(Served(**each) for each in answer["models"]), directories


def _watched(directories: frozenset[Path]) -> frozenset[Path]:
    """Leave out what was installed: nobody edits it."""
    installed = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")]
    return frozenset(each for each in directories if not any(each.is_relative_to(one) for one in installed))
