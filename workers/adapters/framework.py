"""A framework: imported where a model loads, which is in the process that computes."""

from __future__ import annotations

import importlib
from typing import Any

from foreseen.errors import Misconfigured

__all__ = ["framework"]


def framework(module: str, extra: str) -> Any:
    """Import a framework's module, whose types no checker need know.

    Args:
        module: its name.
        extra: of foreseen's, that installs it.

    Raises:
        Misconfigured: it is not installed here.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise Misconfigured(f"{error.name} is not installed here: pip install 'foreseen[{extra}]'") from error
