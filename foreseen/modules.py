"""What FORESEEN_MODELS and `foreseen up` can name: modules, files, directories of files, entry points of packages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from foreseen.errors import Misconfigured

__all__ = ["ENTRY_POINTS", "Given", "environment_of", "expand", "parse"]

#: Stands for all models that installed packages announce, in the group of entry points below.
ENTRY_POINTS: Final = "entry-points"
_GROUP: Final = "foreseen.models"


@dataclass(frozen=True, slots=True)
class Given:
    """A module to serve.

    Attributes:
        name: as Python imports it: `package.module`, or `package.module:Class`.
        file: where it lies, if a path was given.
        root: the directory that has to be on the path for that.
    """

    name: str
    file: Path | None = None
    root: Path | None = None


def expand(argument: str) -> list[Given]:
    """Return the modules that an argument means: of a directory each file that does not begin with `_` or `test_`.

    `entry-points` means what installed packages announce: `[project.entry-points."foreseen.models"]`.

    Raises:
        Misconfigured: the path is not one of a Python file that can be imported, or there is nothing in it.
    """
    if argument == ENTRY_POINTS:
        found = [Given(each.value.replace(" ", "")) for each in entry_points(group=_GROUP)]
        if not found:
            raise Misconfigured(f'{ENTRY_POINTS}: no installed package has [project.entry-points."{_GROUP}"]')
        return found
    if not _is_path(argument) or not Path(argument).is_dir():
        return [parse(argument)]
    files = [file for file in sorted(Path(argument).glob("*.py")) if not file.name.startswith(("_", "test_"))]
    if not files:
        raise Misconfigured(f"{argument} is a directory without a .py file: it holds one for each model")
    return [parse(str(file)) for file in files]


def parse(argument: str) -> Given:
    """Return what an argument means; one with a slash or with `.py` at its end is a path.

    Raises:
        Misconfigured: the path is not one of a Python file that can be imported.
    """
    path, colon, class_name = argument.partition(":")
    if not _is_path(path):
        return Given(argument)
    file = Path(path).resolve()
    if file.is_dir():
        raise Misconfigured(f"{path} is a directory: name the file with the model, such as {Path(path) / 'shout.py'}")
    if not file.is_file():
        raise Misconfigured(f"{path}: there is no such file")
    if file.suffix != ".py":
        raise Misconfigured(f"{path} is no Python file: its name does not end in .py")
    root, parts = file.parent, [file.stem]
    while (root / "__init__.py").exists() and root.parent != root:  # in a package, so that its relative imports work
        parts.insert(0, root.name)
        root = root.parent
    if any(mark in part for part in parts for mark in ".,:"):
        raise Misconfigured(f"{path} cannot be imported under that name: rename it, such as shout.py")
    return Given(".".join(parts) + colon + class_name, file, root)


def _is_path(argument: str) -> bool:
    return argument.endswith(".py") or os.sep in argument


def environment_of(modules: Sequence[Given], base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which modules can be imported: the base, and the files' directories on the path.

    Not the current one, which a worker puts there by itself, and late: from the start, a file of a common name in it
    would hide a module that Celery needs.
    """
    roots = dict.fromkeys(str(each.root) for each in modules if each.root not in {None, Path.cwd()})
    paths = [*roots, *filter(None, [base.get("PYTHONPATH")])]
    # Else ONNX Runtime reports to its makers as soon as it is imported.
    environment = {"ORT_DISABLE_TELEMETRY": "1", **base}
    return environment | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
