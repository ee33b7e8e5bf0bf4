"""What `foreseen up` is given to serve: names of modules, or paths of their files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foreseen.errors import Misconfigured

__all__ = ["Given", "environment_of", "parse"]


@dataclass(frozen=True, slots=True)
class Given:
    """A module to serve.

    Attributes:
        name: as FORESEEN_MODELS takes it: `package.module`, or `package.module:Class`.
        file: where it lies, if a path was given.
        root: the directory that has to be on the path for that.
    """

    name: str
    file: Path | None = None
    root: Path | None = None


def parse(argument: str) -> Given:
    """Return what an argument means; one with a slash or with `.py` at its end is a path.

    Raises:
        Misconfigured: the path is not one of a Python file that can be imported.
    """
    path, colon, class_name = argument.partition(":")
    if not path.endswith(".py") and os.sep not in path:
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
