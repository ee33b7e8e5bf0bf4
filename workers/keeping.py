"""Whether an output is kept, as its model says."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from workers.model import Model

__all__ = ["is_kept"]

log = logging.getLogger("foreseen.worker")


def is_kept(model: Model[Any, Any], output: Any) -> bool:
    """Ask a model whether an output is kept; one that cannot say is delivered all the same, and not kept."""
    try:
        return bool(model.cacheable(output))
    except Exception as error:  # noqa: BLE001 - a model can raise anything, and its output is good
        _tell(model.model_id(), type(error).__qualname__)
        return False


@cache
def _tell(model_id: str, kind: str) -> None:
    """Say so once for each kind of error in each process; of what the error holds nothing: it may be the output."""
    log.error("%s: cacheable raised %s; outputs it raises for are delivered and not kept (told once)", model_id, kind)
