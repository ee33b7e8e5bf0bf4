"""Look at modules with models in a process of its own: `python -m foreseen.cli.up.inspection OWNER_PID`.

What a module does when it is imported stays in this process, and code that has changed is read anew each time. The
question comes on the standard input and the answer goes to the standard output, both as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import foreseen
from foreseen.cli import leash

__all__ = ["look", "shadowed"]

_MAX_EXAMPLE = 60  # characters; a longer one is not an example that anybody pastes


def look(questions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Import modules and tell what they hold.

    Args:
        questions: `name` as in FORESEEN_MODELS, `file` where a path was given, else None.

    Returns:
        `models`: for each its name, version, types, file and an example, but for ensembles of others' members, whose
        versions only the cache tells; `errors`: by name what is wrong; `files`: of all modules that have one, those
        with errors too.
    """
    from workers.pinning import pinned
    from workers.registry import find_models

    found = find_models([each["name"] for each in questions])
    errors = dict(found.errors)
    files: list[str] = []
    for each in questions:
        name, wanted = each["name"], each["file"]
        file = _file(name) or wanted
        files += [file] if file else []
        if wanted and file != wanted:
            errors[name] = f"{wanted} is hidden by another module {_module(name)}, {file}: rename one of them"
    models = [_described(model) for model in pinned(found).models.values()]
    return {"models": models, "errors": errors, "files": files}


def shadowed() -> str | None:
    """Return what is wrong if `workers` or `producer` is not foreseen's own."""
    home = Path(foreseen.__file__).parent.parent  # the three packages lie side by side, however they are installed
    for name in ("workers", "producer"):
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec is not None else None
        if origin is None or Path(origin).parent != home / name:
            found = origin or f"a directory {name} without an __init__.py"
            return f"{found} hides foreseen's own package {name!r}: rename it, or start from another directory"
    return None


def _module(name: str) -> str:
    return name.partition(":")[0]


def _file(name: str) -> str | None:
    module = sys.modules.get(_module(name))
    if module is not None:
        return getattr(module, "__file__", None)
    try:
        spec = importlib.util.find_spec(_module(name))
    except Exception:  # noqa: BLE001 - a package above it does not import; that is told already
        return None
    return spec.origin if spec is not None else None


def _described(model: Any) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "input": _type_name(model.input_type),
        "output": _type_name(model.output_type),
        "example": _example_text(model),
        "file": getattr(sys.modules.get(model.__module__), "__file__", None) or model.__module__,
    }


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def _example_text(model: Any) -> str | None:
    from foreseen.cli.up.example import example

    try:
        value = example(model.input_schema())
        model.validate_input(value)
    except Exception:  # noqa: BLE001 - it is no more than an offer
        return None
    text = repr(value)
    if '"' not in text:  # as the code around it is written
        text = text.replace("'", '"')
    return text if len(text) <= _MAX_EXAMPLE else None


def _answer() -> None:
    """Answer one question, and end whatever threads the modules have started."""
    leash.hold(int(sys.argv[1]))
    answers = os.dup(1)
    os.dup2(2, 1)  # what modules print is not the answer
    questions = json.load(sys.stdin)
    if (here := str(Path.cwd())) not in sys.path:  # as the worker does
        sys.path.insert(0, here)
    wrong = shadowed()
    answer = {"models": [], "errors": {"": wrong}, "files": []} if wrong else look(questions)
    with os.fdopen(answers, "w") as out:
        json.dump(answer, out)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    _answer()
